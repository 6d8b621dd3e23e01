//! Files that other people may have prepared for us: opened without blocking, judged by the
//! descriptor, read up to a limit. One is written: the user's configuration, whole or not at all.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::statvfs::{Statvfs, statvfs};

use crate::error::{Error, Exit};
use crate::words::quoted;

/// The largest configuration file in bytes.
const CONFIG_MAX: u64 = 64 * 1024;

/// How long a file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns what was `done` to a file; one that is missing needs nothing.
pub fn if_there(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Returns how full the file system of `path` is, if it answers: that of a lost server does not.
pub fn file_system(path: &Path) -> Option<Statvfs> {
    let path = path.to_owned();
    let (answer, asked) = mpsc::channel();
    thread::spawn(move || answer.send(statvfs(&path)));
    asked.recv_timeout(PATIENCE).ok()?.ok()
}

/// Returns the free bytes at `path`, 0 if there is no free inode, if its file system answers.
pub fn free(path: &Path) -> Option<u64> {
    let found = file_system(path)?;
    let has_inodes = found.files() == 0 || found.files_available() > 0;
    Some(if has_inodes { found.blocks_available() * found.fragment_size() } else { 0 })
}

/// Returns the text of the configuration file `path`, `None` if there is none (exit 78 if it is bad).
///
/// Only a regular file of at most 64 KiB counts, owned by root or by `uid`, that no other user can
/// write. Links are followed: files in a home are often links into a managed directory.
pub fn read_config(path: &Path, uid: u32) -> Result<Option<String>, Error> {
    let quoted = quoted(path);
    let refuse = |what: String, hint: String| {
        let what = format!("the configuration file `{}` {what}", path.display());
        Error::new(Exit::Config, what).hint(hint)
    };
    let unread = |error: io::Error| {
        refuse("cannot be read".to_owned(), format!("ls -l {quoted}")).because(&error)
    };
    let (file, metadata) = match open_regular(path) {
        Ok(opened) => opened,
        Err(error) => {
            let is_absent =
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            return if is_absent { Ok(None) } else { Err(unread(error)) };
        }
    };
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != 0 && owner != uid {
        return Err(refuse(
            format!("belongs to user {owner}, neither to root nor to you (user {uid})"),
            format!("make it yours: chown {uid} {quoted}"),
        ));
    }
    // A group of one's own, by the convention that its number is the user's, is only that user.
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && metadata.gid() != owner) {
        return Err(refuse(
            format!("can be written by others (mode {mode:04o})"),
            format!("chmod go-w {quoted}"),
        ));
    }
    let bytes = read_up_to(file, CONFIG_MAX).map_err(unread)?.ok_or_else(|| {
        let what = format!("is larger than {} KiB", CONFIG_MAX / 1024);
        refuse(what, "check that it is the right file".to_owned())
    })?;
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let hint = "TOML files are UTF-8".to_owned();
        refuse("is not UTF-8 text".to_owned(), hint).because(&error)
    })
}

/// Writes the configuration file `path` of user `uid` with this `text`, whole or not at all.
///
/// A file keeps its mode; a new one, and directories that are missing, are for the user alone. A
/// link stays, and the file that it leads to is written.
pub fn write_config(path: &Path, text: &str, uid: u32) -> Result<(), Error> {
    let refuse = |exit: Exit, why: &str| {
        let what = format!("the configuration file `{}` {why}", path.display());
        Error::new(exit, what)
    };
    if text.len() as u64 > CONFIG_MAX {
        let why = format!("would be larger than {} KiB", CONFIG_MAX / 1024);
        return Err(refuse(Exit::Config, &why).hint("shorten the value"));
    }
    let file = end_of_links(path);
    let old = fs::metadata(&file).ok();
    let root = Path::new("/");
    let place = path.ancestors().skip(1).find(|place| place.exists()).unwrap_or(root);
    let owner = fs::metadata(place).map_or(uid, |metadata| metadata.uid());
    // As with `sudo` and a HOME that it keeps.
    if old.is_none() && uid == 0 && owner != 0 {
        let place = place.display();
        let why = format!("is not made by root: `{place}` belongs to user {owner}");
        return Err(refuse(Exit::Config, &why).hint(format!("do this as user {owner}")));
    }
    let mut directories = DirBuilder::new();
    let made = directories.recursive(true).mode(0o700).create(path.parent().unwrap_or(root));
    made.and_then(|()| replace(&file, old.as_ref(), text.as_bytes())).map_err(|error| {
        let hint = if file == path {
            format!("ls -ld {}", quoted(place))
        } else {
            let file = file.display();
            format!(
                "it is a link to `{file}`: change that where it is kept, or put a file in the \
                 link's place"
            )
        };
        refuse(Exit::Failed, "cannot be written").because(&error).hint(hint)
    })
}

/// Writes the file `path`, whole or not at all, and makes the directories above it. A new file can
/// be read by everybody; another keeps its mode.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = fs::symlink_metadata(path).ok();
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    replace(path, old.as_ref(), bytes)?;
    match old {
        Some(_) => Ok(()),
        None => fs::set_permissions(path, Permissions::from_mode(0o644)),
    }
}

/// The path to which the links lead that begin with `path`, be there a file or not.
pub fn end_of_links(path: &Path) -> PathBuf {
    let mut end = path.to_owned();
    // Links in a circle were refused when the file was read; this only has to end.
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&end) else { break };
        end = end.parent().unwrap_or(Path::new("/")).join(next);
    }
    end
}

/// Writes beside `path` and moves that over it, so that no reader sees half of it.
pub fn replace(path: &Path, old: Option<&Metadata>, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = old
        .map_or(Ok(()), |old| keep_rights(&file, old))
        .and_then(|()| file.write_all(bytes))
        // Some file systems move a name before the bytes: a loss of power would leave none.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// Gives `file` the group and the mode of the `old` one. If that group cannot be given, ours gets
/// what everybody has: more was meant for another.
fn keep_rights(file: &File, old: &Metadata) -> io::Result<()> {
    let kept = fchown(file, None, Some(old.gid()));
    let mode = match kept {
        Ok(()) => old.mode(),
        Err(_) => old.mode() & !0o070 | (old.mode() & 0o007) << 3,
    };
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
}

/// The bytes of the regular file `path`, if there are at most `limit`; `None` if there are more.
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
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((file, metadata))
}

/// Opens the file `path` of ours to read and write it, and makes it if it is missing; a link is not
/// followed.
pub fn open_own(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Reads to the end, or gives up behind `limit` bytes.
pub fn read_up_to(file: File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
