//! Unpacks a tarball: regular files of known names. The tar crate only reads; what is written, where and
//! with which mode, is decided here.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Seek};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use tracing::warn;

use crate::error::{Error, Exit};
use crate::fetch::{Package, SCRIPTS};

/// The largest program in bytes; dockerd has about 100 MB.
const PROGRAM_MAX: u64 = 512 << 20;

/// The most bytes that a tarball may unpack to.
const TOTAL_MAX: u64 = 3 << 29;

/// The most entries of a tarball.
const ENTRIES_MAX: usize = 200;

const HINT: &str = "nothing was changed; try another mirror or version: --mirror URL, --version V";

/// Bytes that are read, or written, at once.
const CHUNK: usize = 256 * 1024;

/// Unpacks the programs of `package` into `directory`. Fails with exit 6 for a tarball that is damaged,
/// incomplete or hostile.
pub fn unpack(file: &File, name: &str, package: Package, directory: &Path) -> Result<(), Error> {
    read(file, name, package, directory).map_err(|error| {
        // What the system says is about the disk.
        let (exit, what, hint) = match error.raw_os_error() {
            Some(_) => (Exit::Failed, "cannot be unpacked", "df -h ~"),
            None => (Exit::Integrity, "is damaged or hostile", HINT),
        };
        Error::new(exit, format!("`{name}` {what}")).because(&error).hint(hint)
    })
}

fn read(mut file: &File, name: &str, package: Package, directory: &Path) -> io::Result<()> {
    file.rewind()?;
    let reader = BufReader::with_capacity(CHUNK, file);
    let mut archive = Archive::new(MultiGzDecoder::new(reader).take(TOTAL_MAX));
    let mut seen = BTreeSet::new();
    // Raw: an extended header changes nothing, so names and sizes are those that are judged.
    for (number, entry) in archive.entries()?.raw(true).enumerate() {
        let mut entry = entry?;
        if number >= ENTRIES_MAX {
            return refuse(format!("it holds more than {ENTRIES_MAX} entries"));
        }
        let (kind, size) = (entry.header().entry_type(), entry.size());
        if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            continue;
        }
        let path = entry.path_bytes().into_owned();
        let Some(program) = judge(package, &path, kind, entry.header().mode()?, size)? else {
            continue;
        };
        if !seen.insert(program.to_owned()) {
            return refuse(format!("it holds the program `{program}` twice"));
        }
        if package.programs().any(|known| known == program) {
            write_program(&mut entry, size, &directory.join(program))?;
        } else if !SCRIPTS.contains(&program) {
            let shown = program.escape_debug();
            warn!("`{name}` holds the unknown program `{shown}`, which is left out");
        }
    }
    // The end of the compressed stream holds a checksum of its own.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    match package.required().iter().find(|name| !seen.contains(**name)) {
        Some(missing) => refuse(format!("it lacks the program `{missing}`")),
        None => Ok(()),
    }
}

fn refuse<T>(why: String) -> io::Result<T> {
    Err(io::Error::other(why))
}

/// Returns the name of the program that the entry is, `None` for the directory itself.
fn judge(
    package: Package,
    path: &[u8],
    kind: EntryType,
    mode: u32,
    size: u64,
) -> io::Result<Option<&str>> {
    let path = str::from_utf8(path).map_err(io::Error::other)?;
    let directory = package.name();
    if kind == EntryType::Directory && path.strip_suffix('/').unwrap_or(path) == directory {
        return Ok(None);
    }
    let name = path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/'));
    let is_plain = |name: &str| !["", ".", ".."].contains(&name) && !name.contains(['/', '\0']);
    let why = match name.filter(|name| is_plain(name)) {
        _ if kind != EntryType::Regular => "a regular file",
        None => &format!("directly in `{directory}/`"),
        _ if mode & 0o7000 != 0 => "without setuid, setgid and sticky bits",
        _ if size > PROGRAM_MAX => &format!("below {} MiB", PROGRAM_MAX >> 20),
        Some(name) => return Ok(Some(name)),
    };
    refuse(format!("the entry `{}` is not {why}", path.escape_debug()))
}

/// Writes one program: a new file, through no link, executable for all.
fn write_program(entry: &mut impl Read, size: u64, path: &Path) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let mut writer = BufWriter::with_capacity(CHUNK, file);
    if io::copy(entry, &mut writer)? != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let file = writer.into_inner()?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

/// Returns the SHA-256 sum of all bytes of `file`.
pub fn sum_of(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&chunk[..count]),
        }
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_in_the_directory_are_taken() {
        let judge = |path: &'static str, kind| {
            judge(Package::Docker, path.as_bytes(), kind, 0o755, 1).expect("it is taken")
        };
        assert_eq!(judge("docker/", EntryType::Directory), None);
        for name in ["dockerd", "docker-new"] {
            let path = ["docker/", name].concat().leak();
            assert_eq!(judge(path, EntryType::Regular), Some(name));
        }
    }

    #[test]
    fn hostile_entries_are_refused() {
        use EntryType as E;
        let cases = [
            ("docker/../dockerd", E::Regular, 0o755, 1, "directly"),
            ("../dockerd", E::Regular, 0o755, 1, "directly"),
            ("/bin/dockerd", E::Regular, 0o755, 1, "directly"),
            ("docker/..", E::Regular, 0o755, 1, "directly"),
            ("docker/", E::Regular, 0o755, 1, "directly"),
            ("docker", E::Regular, 0o755, 1, "directly"),
            ("./docker/dockerd", E::Regular, 0o755, 1, "directly"),
            ("docker/do\0ckerd", E::Regular, 0o755, 1, "directly"),
            ("docker/dockerd", E::Symlink, 0o755, 1, "a regular file"),
            ("docker/dockerd", E::Regular, 0o4755, 1, "setuid"),
            ("docker/dockerd", E::Regular, 0o755, PROGRAM_MAX + 1, "below"),
            ("docker/new", E::Regular, 0o755, u64::MAX, "below"),
        ];
        for (path, kind, mode, size, why) in cases {
            let verdict = judge(Package::Docker, path.as_bytes(), kind, mode, size);
            assert!(
                verdict.as_ref().is_err_and(|error| error.to_string().contains(why)),
                "{path}: {verdict:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn only_names_directly_in_the_directory_are_ever_taken(
            path in proptest::collection::vec(any::<u8>(), 0..30), mode: u32, size: u64
        ) {
            if let Ok(Some(taken)) = judge(Package::Docker, &path, EntryType::Regular, mode, size) {
                prop_assert!(!taken.contains('/'));
                prop_assert_eq!(format!("docker/{taken}").into_bytes(), path);
            }
        }
    }
}
