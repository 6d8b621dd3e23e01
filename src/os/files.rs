//! Files that other people may have prepared for us: opened without blocking, judged by the
//! descriptor, read up to a limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::error::{Error, Exit};

/// The largest configuration file in bytes.
const CONFIG_MAX: u64 = 64 * 1024;

/// The text of the configuration file `path`, `None` if there is none.
///
/// Only a regular file of at most 64 KiB counts, owned by root or by `uid`, that nobody else can
/// write. Links are followed: files in a home are often links into a managed directory.
///
/// # Errors
/// Names the file and what is wrong with it (exit 78).
pub fn read_config(path: &Path, uid: u32) -> Result<Option<String>, Error> {
    let shown = path.display();
    let quoted = crate::words::quote(path.as_os_str());
    let quoted = quoted.display();
    let refuse = |what: String, hint: String| {
        Error::new(
            Exit::Config,
            format!("the configuration file `{shown}` {what}"),
        )
        .hint(hint)
    };
    let (file, metadata) = match open_regular(path) {
        Ok(opened) => opened,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(
                refuse("cannot be read".to_owned(), format!("ls -l {quoted}")).because(&error),
            );
        }
    };
    if metadata.uid() != 0 && metadata.uid() != uid {
        return Err(refuse(
            format!(
                "belongs to user {}, neither to root nor to you (user {uid})",
                metadata.uid()
            ),
            format!("make it yours: chown {uid} {quoted}"),
        ));
    }
    // A group of one's own, by the convention that its number is the user's, is nobody else.
    let own_group = metadata.gid() == metadata.uid();
    if metadata.mode() & 0o002 != 0 || (metadata.mode() & 0o020 != 0 && !own_group) {
        return Err(refuse(
            format!(
                "can be written by others (mode {:04o})",
                metadata.mode() & 0o7777
            ),
            format!("chmod go-w {quoted}"),
        ));
    }
    let bytes = read_up_to(file, CONFIG_MAX).map_err(|error| {
        refuse("cannot be read".to_owned(), format!("ls -l {quoted}")).because(&error)
    })?;
    let bytes = bytes.ok_or_else(|| {
        refuse(
            format!("is larger than {} KiB", CONFIG_MAX / 1024),
            "check that it is the right file".to_owned(),
        )
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(refuse(
            "is not UTF-8 text".to_owned(),
            "TOML files are UTF-8".to_owned(),
        )
        .because(&error)),
    }
}

/// The bytes of the regular file `path`, if there are at most `limit`; `None` if there are more.
///
/// # Errors
/// What the system says; `InvalidInput` for anything but a regular file.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    open_regular(path).and_then(|(file, _)| read_up_to(file, limit))
}

/// Opens a regular file; a FIFO or a device is refused without blocking on it.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    Ok((file, metadata))
}

/// Reads to the end, or gives up behind `limit` bytes.
pub fn read_up_to(file: File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
