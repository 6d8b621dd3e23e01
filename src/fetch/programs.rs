//! Which entries of Docker's tarballs are programs that we take, and which make us refuse the whole
//! tarball.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::fetch::Package;

/// The largest program in bytes; dockerd has about 100 MB.
pub const PROGRAM_MAX: u64 = 512 << 20;

/// The most bytes that a tarball may unpack to.
pub const TOTAL_MAX: u64 = 3 << 29;

/// The most entries of a tarball.
const ENTRIES_MAX: usize = 200;

/// What we put into each set ourselves: the program, and the names of upstream's scripts for it.
pub const OWN: &str = "dockerd-rootless";
/// Upstream's scripts, which our program stands for.
pub const SCRIPTS: [&str; 2] = ["dockerd-rootless.sh", "dockerd-rootless-setuptool.sh"];

const DOCKER_REQUIRED: &[&str] = &[
    "containerd",
    "containerd-shim-runc-v2",
    "docker",
    "docker-init",
    "docker-proxy",
    "dockerd",
    "runc",
];
/// containerd-shim was there until 20.10.
const DOCKER_OPTIONAL: &[&str] = &["containerd-shim", "ctr"];
const EXTRAS_REQUIRED: &[&str] = &["rootlesskit"];
/// The first was there until 27.
const EXTRAS_OPTIONAL: &[&str] = &["rootlesskit-docker-proxy", "vpnkit"];

/// Every name that may ever be a link of ours in the directory of programs.
pub fn all_names() -> impl Iterator<Item = &'static str> {
    [DOCKER_REQUIRED, DOCKER_OPTIONAL, EXTRAS_REQUIRED, EXTRAS_OPTIONAL, &[OWN], &SCRIPTS]
        .into_iter()
        .flatten()
        .copied()
}

/// What kind of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else, in a few words.
    Other(&'static str),
}

/// One entry of a tarball, as its header tells.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name, any bytes.
    pub name: &'a [u8],
    /// What it is.
    pub kind: Kind,
    /// The permission bits, with those above.
    pub mode: u32,
    /// The size in bytes.
    pub size: u64,
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A program that we take, by this name.
    Take(&'static str),
    /// Expected, and not needed: the directory, upstream's scripts.
    Skip,
    /// Not known, and not taken.
    Unknown,
}

/// Judges a tarball entry by entry.
#[derive(Debug)]
pub struct Judge {
    package: Package,
    seen: BTreeSet<Vec<u8>>,
    taken: BTreeSet<&'static str>,
    entries: usize,
    total: u64,
}

impl Judge {
    /// One for a tarball of this package.
    pub fn new(package: Package) -> Self {
        Self { package, seen: BTreeSet::new(), taken: BTreeSet::new(), entries: 0, total: 0 }
    }

    /// What to do with the next entry.
    ///
    /// # Errors
    /// Why the tarball is refused, as the end of a sentence that begins with it.
    pub fn judge(&mut self, entry: &Entry<'_>) -> Result<Verdict, String> {
        let shown = String::from_utf8_lossy(entry.name).escape_debug().to_string();
        let refuse = |why: &str| Err(format!("holds the entry `{shown}`, which {why}"));
        self.entries += 1;
        self.total = self.total.saturating_add(entry.size);
        if self.entries > ENTRIES_MAX {
            return Err(format!("holds more than {ENTRIES_MAX} entries"));
        }
        let directory = format!("{}/", self.package.name()).into_bytes();
        if let Kind::Other(what) = entry.kind {
            return refuse(&format!("is {what}"));
        }
        if entry.kind == Kind::Directory
            && [&*directory, &directory[..directory.len() - 1]].contains(&entry.name)
        {
            return Ok(Verdict::Skip);
        }
        let name = match entry.name.strip_prefix(&*directory) {
            Some(name) => name,
            None => return refuse(&format!("is not below `{}/`", self.package.name())),
        };
        if entry.kind == Kind::Directory || name.is_empty() || name.contains(&b'/') {
            return refuse("is not directly in that directory");
        }
        if name == b"." || name == b".." || name.contains(&0) {
            return refuse("is no name of a file");
        }
        if entry.mode & 0o7000 != 0 {
            return refuse(&format!(
                "would be setuid, setgid or sticky (mode {:04o})",
                entry.mode & 0o7777
            ));
        }
        if entry.size > PROGRAM_MAX {
            return refuse(&format!("is larger than {} MiB", PROGRAM_MAX >> 20));
        }
        if self.total > TOTAL_MAX {
            return Err(format!("unpacks to more than {} MiB", TOTAL_MAX >> 20));
        }
        if !self.seen.insert(name.to_vec()) {
            return refuse("is there twice");
        }
        let (required, optional) = programs_of(self.package);
        let programs = required.iter().chain(optional);
        if let Some(&known) = programs.into_iter().find(|known| known.as_bytes() == name) {
            self.taken.insert(known);
            return Ok(Verdict::Take(known));
        }
        let is_script = SCRIPTS.iter().any(|script| script.as_bytes() == name);
        Ok(match is_script && self.package == Package::Extras {
            true => Verdict::Skip,
            false => Verdict::Unknown,
        })
    }

    /// The programs that were taken, once all entries were judged.
    ///
    /// # Errors
    /// Which required program is missing, as the end of a sentence that begins with the tarball.
    pub fn finish(self) -> Result<BTreeSet<&'static str>, String> {
        let (required, _) = programs_of(self.package);
        match required.iter().find(|name| !self.taken.contains(*name)) {
            Some(missing) => Err(format!("lacks the program `{missing}`")),
            None => Ok(self.taken),
        }
    }
}

fn programs_of(package: Package) -> (&'static [&'static str], &'static [&'static str]) {
    match package {
        Package::Docker => (DOCKER_REQUIRED, DOCKER_OPTIONAL),
        Package::Extras => (EXTRAS_REQUIRED, EXTRAS_OPTIONAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(name: &str) -> Entry<'_> {
        Entry { name: name.as_bytes(), kind: Kind::File, mode: 0o755, size: 1 }
    }

    #[test]
    fn known_programs_are_taken_and_others_are_left() {
        let mut judge = Judge::new(Package::Docker);
        let directory = Entry { kind: Kind::Directory, ..file("docker/") };
        assert_eq!(judge.judge(&directory), Ok(Verdict::Skip));
        assert_eq!(judge.judge(&file("docker/dockerd")), Ok(Verdict::Take("dockerd")));
        assert_eq!(judge.judge(&file("docker/docker-news")), Ok(Verdict::Unknown));
        assert_eq!(judge.judge(&file("docker/rootlesskit")), Ok(Verdict::Unknown));
        assert_eq!(judge.finish(), Err("lacks the program `containerd`".to_owned()));
        let mut judge = Judge::new(Package::Extras);
        let script = file("docker-rootless-extras/dockerd-rootless.sh");
        assert_eq!(judge.judge(&script), Ok(Verdict::Skip));
        let program = file("docker-rootless-extras/rootlesskit");
        assert_eq!(judge.judge(&program), Ok(Verdict::Take("rootlesskit")));
        assert_eq!(judge.finish(), Ok(BTreeSet::from(["rootlesskit"])));
    }

    #[test]
    fn hostile_entries_are_refused() {
        let link = Kind::Other("a symbolic link");
        let cases = [
            (file("docker/../dockerd"), "directly"),
            (file("../dockerd"), "not below"),
            (file("/bin/dockerd"), "not below"),
            (file("docker/.."), "no name"),
            (file("docker/"), "directly"),
            (file("docker/a/b"), "directly"),
            (file("dockerd"), "not below"),
            (file("./docker/dockerd"), "not below"),
            (file("docker/do\0ckerd"), "no name"),
            (Entry { kind: link, ..file("docker/dockerd") }, "a symbolic link"),
            (Entry { mode: 0o4755, ..file("docker/dockerd") }, "setuid"),
            (Entry { mode: 0o2755, ..file("docker/news") }, "setuid"),
            (Entry { size: PROGRAM_MAX + 1, ..file("docker/dockerd") }, "larger"),
            (Entry { size: u64::MAX, ..file("docker/news") }, "larger"),
        ];
        for (entry, why) in cases {
            let said = Judge::new(Package::Docker).judge(&entry).expect_err("refused");
            assert!(said.contains(why), "{entry:?}: {said}");
        }
    }

    #[test]
    fn twice_too_many_and_too_much_are_refused() {
        let mut judge = Judge::new(Package::Docker);
        assert!(judge.judge(&file("docker/dockerd")).is_ok());
        assert!(judge.judge(&file("docker/dockerd")).is_err_and(|why| why.contains("twice")));

        let mut judge = Judge::new(Package::Docker);
        let verdicts = (0..=ENTRIES_MAX)
            .map(|number| judge.judge(&file(&format!("docker/n{number}"))).is_ok());
        assert_eq!(verdicts.filter(|taken| *taken).count(), ENTRIES_MAX);

        let mut judge = Judge::new(Package::Docker);
        let large = |name| Entry { size: PROGRAM_MAX, ..file(name) };
        for name in ["docker/a", "docker/b", "docker/c"] {
            assert!(judge.judge(&large(name)).is_ok());
        }
        assert!(judge.judge(&large("docker/d")).is_err_and(|why| why.contains("unpacks to more")));
    }

    proptest! {
        #[test]
        fn only_names_of_the_list_are_ever_taken(name in proptest::collection::vec(any::<u8>(), 0..30), mode: u32, size: u64) {
            let entry = Entry { name: &name, kind: Kind::File, mode, size };
            if let Ok(Verdict::Take(taken)) = Judge::new(Package::Docker).judge(&entry) {
                let full = format!("docker/{taken}");
                prop_assert_eq!(full.as_bytes(), &*name);
            }
        }
    }
}
