//! The dumps that dockerd writes when it is asked for them: each is large, and the exec root mostly in
//! memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;
use tracing::debug;

/// How dockerd names a dump: `goroutine-stacks-TIME.log` (moby, `pkg/stack`).
const BEGIN: &str = "goroutine-stacks-";
const END: &str = ".log";

/// The characters of the time, which is RFC 3339 without colons: `2026-11-27T090446Z`.
const TIME: &str = "0123456789-+TZ";

/// Removes all but the `keep` newest of dockerd's dumps in `exec_root`. Only files of ours that bear
/// such a name are touched, and no link is followed. What cannot be removed stays.
pub fn keep_last_dumps(exec_root: &Path, keep: usize) {
    let own = geteuid().as_raw();
    let entries = fs::read_dir(exec_root).into_iter().flatten().flatten();
    let mut dumps: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_dump))
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .filter(|(found, _)| found.is_file() && found.uid() == own)
        .map(|(found, path)| ((found.mtime(), found.mtime_nsec()), path))
        .collect();
    dumps.sort();
    dumps.truncate(dumps.len().saturating_sub(keep));
    for (_, path) in dumps {
        match fs::remove_file(&path) {
            Ok(()) => debug!("the old dump {} is removed", path.display()),
            Err(error) => debug!("the old dump {} cannot be removed: {error}", path.display()),
        }
    }
}

fn is_dump(name: &str) -> bool {
    let time = name.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    time.is_some_and(|time| !time.is_empty() && time.chars().all(|char| TIME.contains(char)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    #[test]
    fn the_last_dumps_stay_and_nothing_else_is_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| directory.path().join(name);
        let make = |name: &str, age: u64| {
            let time = SystemTime::now() - Duration::from_secs(age);
            let file = File::create(place(name)).expect("a file");
            file.set_modified(time).expect("a time");
        };
        // The time of the file counts, for a clock may have been set.
        make("goroutine-stacks-2026-11-27T090446Z.log", 40);
        make("goroutine-stacks-2026-11-27T100446+0100.log", 30);
        make("goroutine-stacks-2026-11-27T110446-0330.log", 20);
        make("goroutine-stacks-1970-01-01T000000Z.log", 10);
        let others = [
            "goroutine-stacks-.log",
            "goroutine-stacks-mine.log",
            "goroutine-stacks-2026-11-27T090446Z.log.gz",
            "daemon-data-2026-11-27T090446Z.log",
        ];
        for name in others {
            make(name, 100);
        }
        let link = place("goroutine-stacks-2026-11-27T080446Z.log");
        symlink(place(others[1]), &link).expect("a link");
        let in_its_place = place("goroutine-stacks-2026-11-27T070446Z.log");
        fs::create_dir(&in_its_place).expect("a directory");

        keep_last_dumps(directory.path(), 2);
        for (name, stays) in [
            ("goroutine-stacks-2026-11-27T090446Z.log", false),
            ("goroutine-stacks-2026-11-27T100446+0100.log", false),
            ("goroutine-stacks-2026-11-27T110446-0330.log", true),
            ("goroutine-stacks-1970-01-01T000000Z.log", true),
        ] {
            assert_eq!(place(name).exists(), stays, "{name}");
        }
        for name in others {
            assert!(place(name).exists(), "{name}");
        }
        assert!(link.is_symlink() && in_its_place.is_dir());
    }
}
