//! The name `dockerd-rootless.sh`: upstream's script. All arguments go to dockerd, and no supervisor
//! stays.

use std::ffi::OsString;

use crate::cli::run::Request;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::words;

/// Starts the daemon with `words`. Returns only if that fails.
pub fn run(words: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    if words.first().is_some_and(|word| word == "check" || word == "install" || word == "uninstall")
    {
        let meant = words::join(words);
        return Err(Error::new(
            Exit::Failed,
            format!("`{}` is not an option of dockerd", words[0].display()),
        )
        .hint(format!("did you mean `dockerd-rootless-setuptool.sh {}`?", meant.display())));
    }
    let request = Request { exec: true, words: words.to_vec(), ..Request::default() };
    crate::cli::run::run(environment, &request)
}
