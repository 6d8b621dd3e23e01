//! What the daemon's own last lines tell, where no check can look: its databases are its own.

use std::path::Path;

use crate::words::quote;

/// A file of dockerd's that it fails on at every start.
struct Known {
    /// What stands in a line of the daemon's then.
    said: &'static str,
    /// The file, below the data root.
    file: &'static str,
    /// What has happened.
    why: &'static str,
    /// What is lost without the file, and what is not.
    loss: &'static str,
}

const KNOWN: &[Known] = &[
    // libnetwork's `reservePools` takes the first address pool of a network that was stored before
    // it got one: a panic, from 20.10 on (github.com/docker/libnetwork, controller.go).
    Known {
        said: "libnetwork.(*controller).reservePools(",
        file: "network/files/local-kv.db",
        why: "holds half a network, and dockerd panics over it at every start: it was killed while it made or removed that network",
        loss: "the networks that you have made are gone then; images, containers and volumes stay",
    },
];

/// Finds the known failure that `log`, the last lines of the daemon with this `data_root`, tells of.
/// Returns a sentence and a hint with the command that fixes it.
pub fn known_failure(log: &[String], data_root: &Path) -> Option<(String, String)> {
    let is_said = |known: &&Known| {
        let said = known.said.to_lowercase();
        log.iter().any(|line| line.to_lowercase().contains(&said))
    };
    KNOWN.iter().find(is_said).map(|known| {
        let file = data_root.join(known.file);
        let quoted = quote(file.as_os_str());
        let quoted = quoted.display();
        let sentence = format!("`{}` {}", file.display(), known.why);
        let hint = format!("mv {quoted} {quoted}.broken ({})", known.loss);
        (sentence, hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_a_known_file_names_the_file_and_the_command() {
        // As dockerd 20.10.24 says it, and as later ones do.
        for frame in [
            "github.com/docker/libnetwork.(*controller).reservePools(0x5652e84b6e70?)",
            "github.com/docker/docker/libnetwork.(*Controller).reservePools(0xc000a81e0)",
            "github.com/moby/moby/v2/daemon/libnetwork.(*Controller).reservePools(0xc000a81e0)",
        ] {
            let log = [
                "panic: runtime error: index out of range [0] with length 0",
                "goroutine 1 [running]:",
                frame,
                "[rootlesskit:parent] error: child exited: exit status 2",
            ];
            let found = known_failure(&log.map(str::to_owned), Path::new("/home/u/my docker"));
            let (sentence, hint) = found.expect("a known failure");
            assert!(
                sentence.starts_with("`/home/u/my docker/network/files/local-kv.db` holds"),
                "{sentence}"
            );
            assert!(
                hint.starts_with(
                    "mv '/home/u/my docker/network/files/local-kv.db' '/home/u/my docker/network/files/local-kv.db'.broken ("
                ),
                "{hint}"
            );
        }
        let others = ["panic: runtime error: index out of range [0] with length 0".to_owned()];
        assert_eq!(known_failure(&others, Path::new("/d")), None);
    }
}
