//! The name `dockerd-rootless.sh`: upstream's script. All arguments go to dockerd, and no supervisor
//! stays.

use std::ffi::OsString;

use crate::cli::request::Request;
use crate::cli::run as launch;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::words;

/// Starts the daemon with `words`. Returns only if that fails.
pub fn run(words: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let first = words.first().and_then(|word| word.to_str());
    if let Some(word @ ("check" | "install" | "uninstall")) = first {
        let what = format!("`{word}` is not an option of dockerd");
        let meant = words::join(words);
        let hint = format!("did you mean `dockerd-rootless-setuptool.sh {}`?", meant.display());
        return Err(Error::new(Exit::Failed, what).hint(hint));
    }
    launch::run(environment, &Request { exec: true, words: words.to_vec(), ..Request::default() })
}
