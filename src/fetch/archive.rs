//! Unpacks a tarball: regular files of known names, below a directory that is already open. The
//! tar crate only reads; what is written, where and with which mode, is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use flate2::bufread::MultiGzDecoder;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use tracing::warn;

use crate::error::{Error, Exit};
use crate::fetch::checksum::Sum;
use crate::fetch::{Package, SCRIPTS};

/// The largest program in bytes; dockerd has about 100 MB.
const PROGRAM_MAX: u64 = 512 << 20;

/// The most bytes that a tarball may unpack to.
const TOTAL_MAX: u64 = 3 << 29;

/// The most entries of a tarball.
const ENTRIES_MAX: usize = 200;

/// Zeros that may follow the archive: tar fills up whole blocks of its own.
const PADDING_MAX: u64 = 1 << 20;

/// The largest extended header in bytes.
const PAX_MAX: u64 = 64 * 1024;

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// The sums of programs by their names.
pub type Sums = BTreeMap<String, Sum>;

/// Unpacks the programs of `package` into `directory`. `name` names the tarball in errors; it must
/// have the sum `expected` as it is read now. Fails with exit 6 for a tarball that is damaged,
/// incomplete or hostile; the caller throws away what was unpacked until then.
pub fn unpack(
    mut tarball: &File,
    name: &str,
    package: Package,
    expected: &Sum,
    directory: impl AsFd,
) -> Result<Sums, Error> {
    let refuse = |why: &str| {
        let hint = "nothing was changed; try another mirror or version: --mirror URL, --version V";
        Error::new(Exit::Integrity, format!("`{name}` {why}")).hint(hint)
    };
    let damaged = |error: &io::Error| refuse("is damaged").because(error);
    tarball.rewind().map_err(|error| damaged(&error))?;
    let hashing = Hashing { inner: tarball, hash: Sha256::new() };
    let plain = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, hashing));
    let mut archive = Archive::new(plain.take(TOTAL_MAX + PADDING_MAX));
    let mut judge = Judge::new(package);
    let mut sums = Sums::new();
    // Raw: extended headers are entries like any other, and nothing is read into memory for them.
    for entry in archive.entries().map_err(|error| damaged(&error))?.raw(true) {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        let header = entry.header();
        let (kind, size) = (header.entry_type(), entry.size());
        if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            read_extensions(&mut entry).map_err(|why| refuse(&why))?;
            continue;
        }
        let mode = header.mode().map_err(|error| damaged(&error))?;
        let path = entry.path_bytes().into_owned();
        match judge.judge(&path, kind, mode, size).map_err(|why| refuse(&why))? {
            Verdict::Take(program) => {
                let sum = write_program(&mut entry, size, program, &directory);
                sums.insert(program.to_owned(), sum.map_err(|failure| failure.explain(damaged))?);
            }
            Verdict::Unknown => {
                warn!("`{name}` holds the unknown program `{}`, which is left out", printed(&path));
            }
            Verdict::Skip => {}
        }
    }
    let sum = drain(archive.into_inner()).map_err(|error| damaged(&error))?;
    judge.finish().map_err(|why| refuse(&why))?;
    if sum != *expected {
        return Err(refuse("has changed while it was read"));
    }
    Ok(sums)
}

fn printed(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Take this program.
    Take(&'static str),
    /// Expected, and not needed: the directory, upstream's scripts.
    Skip,
    /// Not known, and not taken.
    Unknown,
}

/// Judges a tarball entry by entry.
struct Judge {
    package: Package,
    seen: BTreeSet<Vec<u8>>,
    entries: usize,
    total: u64,
}

impl Judge {
    fn new(package: Package) -> Self {
        Self { package, seen: BTreeSet::new(), entries: 0, total: 0 }
    }

    /// Judges the next entry, or says why the tarball is refused: the end of a sentence about it.
    fn judge(
        &mut self,
        path: &[u8],
        kind: EntryType,
        mode: u32,
        size: u64,
    ) -> Result<Verdict, String> {
        let refuse = |why: &str| Err(format!("holds the entry `{}`, which {why}", printed(path)));
        let directory = format!("{}/", self.package.name());
        self.entries += 1;
        self.total = self.total.saturating_add(size);
        if self.entries > ENTRIES_MAX {
            return Err(format!("holds more than {ENTRIES_MAX} entries"));
        }
        if let Some(other) = name_of(kind) {
            return refuse(&format!("is {other}"));
        }
        let is_directory = kind == EntryType::Directory;
        if is_directory && [directory.as_bytes(), self.package.name().as_bytes()].contains(&path) {
            return Ok(Verdict::Skip);
        }
        let Some(name) = path.strip_prefix(directory.as_bytes()) else {
            return refuse(&format!("is not below `{directory}`"));
        };
        if is_directory || name.is_empty() || name.contains(&b'/') {
            return refuse("is not directly in that directory");
        }
        if name == b"." || name == b".." || name.contains(&0) {
            return refuse("is not a valid file name");
        }
        if mode & 0o7000 != 0 {
            return refuse(&format!("is setuid, setgid or sticky (mode {:04o})", mode & 0o7777));
        }
        if size > PROGRAM_MAX {
            return refuse(&format!("is larger than {} MiB", PROGRAM_MAX >> 20));
        }
        if self.total > TOTAL_MAX {
            return Err(format!("unpacks to more than {} MiB", TOTAL_MAX >> 20));
        }
        if !self.seen.insert(name.to_vec()) {
            return refuse("is there twice");
        }
        let mut known = self.package.programs();
        Ok(match known.find(|known| known.as_bytes() == name) {
            Some(program) => Verdict::Take(program),
            None if SCRIPTS.iter().any(|script| script.as_bytes() == name) => Verdict::Skip,
            None => Verdict::Unknown,
        })
    }

    /// Says which required program is missing, once all entries were judged.
    fn finish(self) -> Result<(), String> {
        let mut required = self.package.required().iter();
        match required.find(|name| !self.seen.contains(name.as_bytes())) {
            Some(missing) => Err(format!("lacks the program `{missing}`")),
            None => Ok(()),
        }
    }
}

/// Names what is neither a file nor a directory.
fn name_of(kind: EntryType) -> Option<&'static str> {
    match kind {
        EntryType::Regular | EntryType::Directory => None,
        EntryType::Symlink => Some("a symbolic link"),
        EntryType::Link => Some("a hard link"),
        EntryType::Char | EntryType::Block => Some("a device"),
        EntryType::Fifo => Some("a FIFO"),
        EntryType::GNULongName | EntryType::GNULongLink => Some("a name that is too long"),
        EntryType::GNUSparse => Some("a sparse file"),
        _ => Some("of an unknown kind"),
    }
}

/// Reads an extended header (POSIX pax: `LENGTH KEY=VALUE\n`), which may hold times and owners, but
/// no names and sizes other than those that are judged.
fn read_extensions(entry: &mut tar::Entry<'_, impl Read>) -> Result<(), String> {
    let mut text = Vec::new();
    let read = entry.take(PAX_MAX + 1).read_to_end(&mut text);
    read.map_err(|error| format!("is damaged: {error}"))?;
    if text.len() as u64 > PAX_MAX {
        return Err("holds an extended header that is too large".to_owned());
    }
    // Also found inside of a value: nobody needs that.
    let mut decisive = ["path=", "linkpath=", "size=", "GNU.sparse"].into_iter();
    match decisive.find(|key| text.windows(key.len()).any(|part| part == key.as_bytes())) {
        Some(key) => Err(format!("holds an extended header with `{}`", key.trim_end_matches('='))),
        None => Ok(()),
    }
}

enum Failure {
    Reading(io::Error),
    Writing(&'static str, io::Error),
}

impl Failure {
    fn explain(self, damaged: impl Fn(&io::Error) -> Error) -> Error {
        match self {
            Self::Reading(error) => damaged(&error),
            Self::Writing(program, error) => {
                let what = format!("the program `{program}` cannot be written");
                Error::new(Exit::Failed, what).because(&error).hint("df -h ~")
            }
        }
    }
}

/// Writes one program: a new file of that name in `directory`, through no link, executable for all.
fn write_program(
    entry: &mut impl Read,
    size: u64,
    name: &'static str,
    directory: impl AsFd,
) -> Result<Sum, Failure> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let failed = |error| Failure::Writing(name, error);
    let file = openat(directory, name, flags, Mode::from_bits_truncate(0o600));
    let mut file = File::from(file.map_err(|error| failed(error.into()))?);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut written = 0;
    loop {
        let count = entry.read(&mut chunk).map_err(Failure::Reading)?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
        file.write_all(&chunk[..count]).map_err(failed)?;
        written += count as u64;
    }
    if written != size {
        return Err(Failure::Reading(io::ErrorKind::UnexpectedEof.into()));
    }
    file.set_permissions(Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(Sum::of(hash))
}

/// Reads what follows the archive, which must be zeros, up to the end of the compressed stream with
/// its own checksum, and returns the sum of all that was read.
fn drain(mut rest: io::Take<MultiGzDecoder<BufReader<Hashing<'_>>>>) -> io::Result<Sum> {
    let trailing = || io::Error::other("there is data behind its end");
    rest.set_limit(PADDING_MAX + 1);
    let mut padding = Vec::new();
    rest.read_to_end(&mut padding)?;
    if padding.len() as u64 > PADDING_MAX || padding.iter().any(|byte| *byte != 0) {
        return Err(trailing());
    }
    let mut compressed = rest.into_inner().into_inner();
    match io::copy(&mut compressed, &mut io::sink())? {
        0 => Ok(Sum::of(compressed.into_inner().hash)),
        _ => Err(trailing()),
    }
}

/// Hashes what is read.
struct Hashing<'a> {
    inner: &'a File,
    hash: Sha256,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Returns the sum of all bytes of `file`.
pub fn sum_of(mut file: &File) -> io::Result<Sum> {
    file.rewind()?;
    let mut hashing = BufReader::with_capacity(CHUNK, Hashing { inner: file, hash: Sha256::new() });
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(Sum::of(hashing.into_inner().hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(judge: &mut Judge, path: &str, size: u64) -> Result<Verdict, String> {
        judge.judge(path.as_bytes(), EntryType::Regular, 0o755, size)
    }

    #[test]
    fn known_programs_are_taken_and_others_are_left_out() {
        let mut judge = Judge::new(Package::Docker);
        let directory = judge.judge(b"docker/", EntryType::Directory, 0o755, 0);
        assert_eq!(directory, Ok(Verdict::Skip));
        for (path, verdict) in [
            ("docker/dockerd", Verdict::Take("dockerd")),
            ("docker/docker-new", Verdict::Unknown),
            ("docker/rootlesskit", Verdict::Unknown),
        ] {
            assert_eq!(file(&mut judge, path, 1), Ok(verdict), "{path}");
        }
        assert_eq!(judge.finish(), Err("lacks the program `containerd`".to_owned()));
        let mut judge = Judge::new(Package::Extras);
        let script = file(&mut judge, "docker-rootless-extras/dockerd-rootless.sh", 1);
        assert_eq!(script, Ok(Verdict::Skip));
        assert!(file(&mut judge, "docker-rootless-extras/rootlesskit", 1).is_ok());
        assert_eq!(judge.finish(), Ok(()));
    }

    #[test]
    fn hostile_entries_are_refused() {
        use EntryType as E;
        let cases = [
            ("docker/../dockerd", E::Regular, 0o755, 1, "directly"),
            ("../dockerd", E::Regular, 0o755, 1, "not below"),
            ("/bin/dockerd", E::Regular, 0o755, 1, "not below"),
            ("docker/..", E::Regular, 0o755, 1, "not a valid"),
            ("docker/", E::Regular, 0o755, 1, "directly"),
            ("./docker/dockerd", E::Regular, 0o755, 1, "not below"),
            ("docker/do\0ckerd", E::Regular, 0o755, 1, "not a valid"),
            ("docker/dockerd", E::Symlink, 0o755, 1, "a symbolic link"),
            ("docker/dockerd", E::Regular, 0o4755, 1, "setuid"),
            ("docker/dockerd", E::Regular, 0o755, PROGRAM_MAX + 1, "larger"),
            ("docker/new", E::Regular, 0o755, u64::MAX, "larger"),
        ];
        for (path, kind, mode, size, why) in cases {
            let verdict = Judge::new(Package::Docker).judge(path.as_bytes(), kind, mode, size);
            assert!(verdict.as_ref().is_err_and(|said| said.contains(why)), "{path}: {verdict:?}");
        }
    }

    #[test]
    fn duplicates_and_too_much_are_refused() {
        let mut judge = Judge::new(Package::Docker);
        assert!(file(&mut judge, "docker/dockerd", 1).is_ok());
        assert!(file(&mut judge, "docker/dockerd", 1).is_err_and(|why| why.contains("twice")));
        let mut judge = Judge::new(Package::Docker);
        let taken = (0..=ENTRIES_MAX)
            .filter(|number| file(&mut judge, &format!("docker/n{number}"), 1).is_ok());
        assert_eq!(taken.count(), ENTRIES_MAX);
        let mut judge = Judge::new(Package::Docker);
        for name in ["docker/a", "docker/b", "docker/c"] {
            assert!(file(&mut judge, name, PROGRAM_MAX).is_ok());
        }
        let more = file(&mut judge, "docker/d", PROGRAM_MAX);
        assert!(more.is_err_and(|why| why.contains("unpacks to more")));
    }

    proptest! {
        #[test]
        fn only_listed_names_are_ever_taken(
            path in proptest::collection::vec(any::<u8>(), 0..30), mode: u32, size: u64
        ) {
            let mut judge = Judge::new(Package::Docker);
            if let Ok(Verdict::Take(taken)) = judge.judge(&path, EntryType::Regular, mode, size) {
                prop_assert_eq!(format!("docker/{taken}").into_bytes(), path);
            }
        }
    }
}
