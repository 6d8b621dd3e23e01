//! Standard error. A supervisor's messages go to its log: a slow or stopped reader must not hold
//! anything else up. A command that ends soon writes directly.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Takes messages without waiting.
type Log = Box<dyn Fn(&[u8]) + Send>;

/// Where our messages go while there is a log.
static LOG: Mutex<Option<Log>> = Mutex::new(None);

/// What messages are written to, each by one call.
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*LOG.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(log) => {
                log(bytes);
                Ok(bytes.len())
            }
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has messages go to `log`, or directly to standard error again.
pub fn redirect(log: Option<Log>) {
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = log;
}
