//! `state.json`: what was done outside of our own directory, so that it can be undone. It is written
//! before the act, whole or not at all.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit};
use crate::sys::files;

/// The largest state file in bytes.
const MAX: u64 = 1024 * 1024;

/// The version of the file.
const SCHEMA: u32 = 1;

/// What was done outside of our directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    schema: u32,
    /// Where the links to the programs are.
    #[serde(with = "bytes")]
    pub bin_dir: PathBuf,
    /// The sets that hold what lay in that directory before, oldest first.
    #[serde(default)]
    pub adopted: Vec<String>,
    /// The shell files that have, or may have, our lines.
    #[serde(default)]
    pub shell_files: Vec<ShellFile>,
    /// A switch that is under way.
    #[serde(default)]
    pub switching: Option<Switching>,
}

/// One shell file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellFile {
    /// Where it is.
    #[serde(with = "bytes")]
    pub path: PathBuf,
    /// Whether it was not there before.
    pub created: bool,
}

/// A switch of `current` from one set to another, after which `previous` is the former.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switching {
    /// The set that was there, if any.
    pub from: Option<String>,
    /// The set that will be.
    pub to: String,
}

impl State {
    /// One for programs in `bin_dir`, of which nothing has been done yet.
    pub fn new(bin_dir: &Path) -> Self {
        Self {
            schema: SCHEMA,
            bin_dir: bin_dir.to_owned(),
            adopted: Vec::new(),
            shell_files: Vec::new(),
            switching: None,
        }
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// Names the file; nobody but we writes it, so it is damaged (exit 6).
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let refuse = |cause: &dyn std::error::Error| {
            let what = format!("`{}` cannot be understood", path.display());
            Error::new(Exit::Integrity, what)
                .because(cause)
                .hint("move it away; links and PATH lines that it lists are then yours to remove")
        };
        let bytes = match files::read_regular(path, MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(refuse(&io::Error::other("it is too large"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(&error)),
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| refuse(&error))?;
        match state.schema {
            SCHEMA => Ok(Some(state)),
            other => {
                let newer = format!("its schema is {other}, and this program knows {SCHEMA}");
                Err(refuse(&io::Error::other(newer)))
            }
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Names the file, which is then what it was.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| {
            Error::new(Exit::Failed, "the state cannot be written as JSON").because(&error)
        })?;
        text.push(b'\n');
        let old = fs::metadata(path).ok();
        files::replace(path, old.as_ref(), &text).map_err(|error| {
            let what = format!("`{}` cannot be written", path.display());
            Error::new(Exit::Failed, what).because(&error)
        })
    }
}

/// A path as a string; as a list of its bytes if it is not UTF-8.
mod bytes {
    use super::*;
    use serde::{Deserializer, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Lossless {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let text = path.to_owned().into_os_string().into_string();
        let lossless = text.map_or_else(|odd| Lossless::Bytes(odd.into_vec()), Lossless::Text);
        lossless.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match Lossless::deserialize(deserializer)? {
            Lossless::Text(text) => PathBuf::from(text),
            Lossless::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("state.json");
        assert_eq!(State::read(&file).expect("none"), None);
        for odd in [b"/a b".to_vec(), b"/\xff'\"$".to_vec()] {
            let mut state = State::new(&PathBuf::from(OsString::from_vec(odd)));
            state.adopted.push("adopted-00".to_owned());
            state.shell_files.push(ShellFile { path: "/x".into(), created: true });
            state.switching = Some(Switching { from: None, to: "a".to_owned() });
            state.write(&file).expect("written");
            assert_eq!(State::read(&file).expect("read"), Some(state));
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("state.json");
        for text in ["", "{", "{\"schema\": 2, \"bin_dir\": \"/x\"}"] {
            fs::write(&file, text).expect("written");
            let error = State::read(&file).expect_err("refused");
            assert_eq!(error.exit(), Exit::Integrity);
            assert!(error.render().contains("state.json"), "{}", error.render());
        }
    }
}
