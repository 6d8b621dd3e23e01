//! Standard output.

use std::io::{self, Write};

use crate::error::{Error, Exit};

/// Writes a result. A reader that has seen enough is no failure.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Exit::Failed, "standard output cannot be written").because(&error))
        }
        _ => Ok(()),
    }
}
