//! The mounts and the docker client's settings, which more than one room reads.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::iter;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of `/proc/self/mountinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// The file system's type, such as `ext4` or `nfs4`.
    pub kind: String,
    /// The options, such as `rw` and `nosuid`.
    pub options: Vec<String>,
}

/// The mounts, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
    pub fn parse(text: &str) -> Self {
        let mount = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let fields: Vec<&str> = left.split(' ').collect();
            Some(Mount {
                point: unescaped(fields.get(4)?).into(),
                options: fields.get(5)?.split(',').map(str::to_owned).collect(),
                kind: right.split(' ').next()?.to_owned(),
            })
        };
        Self(text.lines().filter_map(mount).collect())
    }

    /// Returns the mount that holds `path`, which is absolute and free of links: the last of the longest.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        self.0
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }
}

/// Decodes a field of that file, in which a blank is `\040`.
pub fn unescaped(field: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

/// The docker client's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerClient {
    pub program: Option<PathBuf>,
    /// `currentContext` of its `config.json`.
    pub current_context: Option<String>,
    /// Why `config.json` is not understood.
    pub config_fault: Option<String>,
    /// The contexts and the addresses that they stand for.
    pub contexts: BTreeMap<String, String>,
}

impl DockerClient {
    /// Returns a name for a new context. One that leads elsewhere stays as it is.
    pub fn free_context(&self) -> String {
        let others = (2..).map(|number| format!("rootless-{number}"));
        let mut names = iter::once("rootless".to_owned()).chain(others);
        names.find(|name| !self.contexts.contains_key(name)).unwrap_or_default()
    }
}

/// Reads the map of a user namespace (user_namespaces(7)): rows of the first ID inside, the first
/// outside, and their count.
pub fn parse_id_map(text: &str) -> Vec<(u64, u64, u64)> {
    let row = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_of_a_path() {
        let mounts = Mounts::parse(
            "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
             30 27 0:50 / /home rw,nosuid shared:5 master:1 - nfs4 srv:/home rw,vers=4\n\
             31 27 0:51 / /mnt/my\\040disk rw - xfs /dev/vdb rw\n\
             32 27 0:52 / /home rw - tmpfs over rw\nnonsense\n",
        );
        let kind = |path: &str| mounts.of(Path::new(path)).map(|mount| mount.kind.as_str());
        assert_eq!(kind("/homely"), Some("ext4"));
        assert_eq!(kind("/home/u"), Some("tmpfs"), "the last one covers the others");
        assert_eq!(kind("/mnt/my disk/x"), Some("xfs"));
        assert_eq!(mounts.0.len(), 4);
        assert_eq!(mounts.0[1].options, ["rw", "nosuid"]);
    }
}
