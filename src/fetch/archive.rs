//! Unpacks a tarball: regular files of known names, below a directory that is already open. The
//! tar crate only reads; what is written, where and with which mode, is decided here.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use flate2::bufread::MultiGzDecoder;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use tracing::warn;

use crate::error::{Error, Exit};
use crate::fetch::Package;
use crate::fetch::Sum;
use crate::fetch::failpoint;
use crate::fetch::programs::{Entry, Judge, Kind, TOTAL_MAX, Verdict};

/// Zeros that may come behind the end of the archive: tar fills up whole blocks of its own.
const PADDING_MAX: u64 = 1 << 20;

/// The largest extended header in bytes.
const PAX_MAX: u64 = 64 * 1024;

/// Bytes that are read from the tarball, and written to a program, at once.
const CHUNK: usize = 256 * 1024;

/// Unpacks the programs of `package` into `directory`, and returns their sums. `shown` names the
/// tarball in errors; it must have the sum `expected`, also as it is read now.
///
/// # Errors
/// Exit 6 for a tarball that is damaged, incomplete or hostile; exit 1 if a program cannot be
/// written. What was unpacked until then is left for the caller to throw away.
pub fn unpack(
    mut tarball: File,
    shown: &str,
    package: Package,
    expected: Sum,
    directory: impl AsFd,
) -> Result<BTreeMap<String, Sum>, Error> {
    let refuse = |why: &str| {
        let hint =
            "nothing was changed; take another mirror or version: --mirror URL, --version VERSION";
        Error::new(Exit::Integrity, format!("`{shown}` {why}")).hint(hint)
    };
    let damaged = |error: &io::Error| refuse("is damaged").because(error);
    tarball.seek(SeekFrom::Start(0)).map_err(|error| damaged(&error))?;
    let hashing = Hashing { inner: tarball, hash: Sha256::new() };
    let buffered = io::BufReader::with_capacity(CHUNK, hashing);
    let plain = MultiGzDecoder::new(buffered).take(TOTAL_MAX + PADDING_MAX);
    let mut archive = Archive::new(plain);
    let mut judge = Judge::new(package);
    let mut sums = BTreeMap::new();
    // Raw: extended headers are entries like any other, and nothing is read into memory for them.
    let entries = archive.entries().map_err(|error| damaged(&error))?.raw(true);
    for entry in entries {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        let kind = entry.header().entry_type();
        if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            read_extensions(&mut entry).map_err(|why| refuse(&why))?;
            continue;
        }
        let name = entry.path_bytes().into_owned();
        let mode = entry.header().mode().map_err(|error| damaged(&error))?;
        let size = entry.size();
        let fact = Entry { name: &name, kind: kind_of(kind), mode, size };
        match judge.judge(&fact).map_err(|why| refuse(&why))? {
            Verdict::Skip => {}
            Verdict::Unknown => {
                let name = String::from_utf8_lossy(&name).escape_debug().to_string();
                warn!("`{shown}` holds `{name}`, which is not known here and is not taken");
            }
            Verdict::Take(program) => {
                let sum =
                    write_program(&mut entry, size, program, &directory).map_err(|failure| {
                        match failure {
                            Broken::Reading(error) => damaged(&error),
                            Broken::Writing(error) => Error::new(
                                Exit::Failed,
                                format!("the program `{program}` cannot be written"),
                            )
                            .because(&error)
                            .hint("is the disk full? df -h ~"),
                        }
                    })?;
                sums.insert(program.to_owned(), sum);
                failpoint::pass("unpacking");
            }
        }
    }
    let rest = archive.into_inner();
    let sum = drain(rest).map_err(|error| damaged(&error))?;
    judge.finish().map_err(|why| refuse(&why))?;
    if sum != expected {
        return Err(refuse("has changed while it was read"));
    }
    Ok(sums)
}

fn kind_of(kind: EntryType) -> Kind {
    match kind {
        EntryType::Regular => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Other("a symbolic link"),
        EntryType::Link => Kind::Other("a hard link"),
        EntryType::Char | EntryType::Block => Kind::Other("a device"),
        EntryType::Fifo => Kind::Other("a FIFO"),
        EntryType::GNULongName | EntryType::GNULongLink => Kind::Other("a name that is too long"),
        EntryType::GNUSparse => Kind::Other("a sparse file"),
        _ => Kind::Other("of a kind that is not known"),
    }
}

/// Reads an extended header (POSIX pax: `LENGTH KEY=VALUE\n`), which may tell times and owners, but
/// no names and sizes other than those that are judged.
fn read_extensions(entry: &mut tar::Entry<'_, impl Read>) -> Result<(), String> {
    let mut text = Vec::new();
    let read = entry.take(PAX_MAX + 1).read_to_end(&mut text);
    read.map_err(|error| format!("is damaged: {error}"))?;
    if text.len() as u64 > PAX_MAX {
        return Err("holds an extended header that is too large".to_owned());
    }
    let decisive = [&b"path="[..], b"linkpath=", b"size=", b"GNU.sparse"];
    // Also found inside of a value: nobody needs that.
    let found = decisive.into_iter().find(|key| text.windows(key.len()).any(|part| part == *key));
    match found {
        Some(key) => Err(format!(
            "holds an extended header with `{}`",
            String::from_utf8_lossy(key).trim_end_matches('=')
        )),
        None => Ok(()),
    }
}

enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// Writes one program: a new file of that name in `directory`, through no link, for everybody to
/// execute.
fn write_program(
    entry: &mut impl Read,
    size: u64,
    name: &str,
    directory: impl AsFd,
) -> Result<Sum, Broken> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_bits_truncate(0o600));
    let mut file = File::from(file.map_err(|error| Broken::Writing(error.into()))?);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut written = 0;
    loop {
        let count = match entry.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Reading(error)),
        };
        hash.update(&chunk[..count]);
        file.write_all(&chunk[..count]).map_err(Broken::Writing)?;
        written += count as u64;
    }
    if written != size {
        return Err(Broken::Reading(io::ErrorKind::UnexpectedEof.into()));
    }
    let mode = Permissions::from_mode(0o755);
    file.set_permissions(mode).map_err(Broken::Writing)?;
    Ok(Sum(hash.finalize().into()))
}

/// Reads what is behind the archive, which must be zeros, up to the end of the compressed stream
/// with its own checksum, and returns the sum of all that was read.
fn drain(mut rest: io::Take<MultiGzDecoder<io::BufReader<Hashing>>>) -> io::Result<Sum> {
    rest.set_limit(PADDING_MAX + 1);
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let count = rest.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        total += count as u64;
        if total > PADDING_MAX || chunk[..count].iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there is something behind its end",
            ));
        }
    }
    let mut buffered = rest.into_inner().into_inner();
    if io::copy(&mut buffered, &mut io::sink())? != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "there is something behind its end",
        ));
    }
    Ok(Sum(buffered.into_inner().hash.finalize().into()))
}

/// Hashes what is read.
struct Hashing {
    inner: File,
    hash: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The sum of all bytes of `file`, from its beginning on.
///
/// # Errors
/// What the system says.
pub fn sum_of(file: &mut File) -> io::Result<Sum> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    hash_rest(file, &mut hash)?;
    Ok(Sum(hash.finalize().into()))
}

/// Hashes what is left of `file`, and returns how many bytes that were.
///
/// # Errors
/// What the system says.
pub fn hash_rest(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hash.update(&chunk[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
