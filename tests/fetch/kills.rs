//! SIGKILL at every system call that changes a name: the old state or the new one, never a mixture, and the next run ends
//! what was begun.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::release::{DOCKER, script};
use super::scene::{NEW, OLD, Scene};

/// Upstream's programs are in `~/bin`.
pub fn with_foreign() -> Scene {
    let scene = Scene::with(&[OLD, NEW]);
    put_foreign(&scene);
    scene
}

fn put_foreign(scene: &Scene) {
    for program in DOCKER.iter().chain(&["rootlesskit"]) {
        scene.user.write(&scene.bin().join(program), script(program, OLD));
    }
}

/// The home without what differs from run to run.
fn tree(scene: &Scene) -> BTreeMap<PathBuf, String> {
    let mut tree = scene.tree();
    // A shell file that was being written: its copy stays.
    tree.retain(|path, _| {
        let name = path.to_string_lossy().into_owned();
        let is_copy = name.rsplit_once('.').is_some_and(|(_, end)| end.parse::<u32>().is_ok());
        !(is_copy && name.starts_with('.') && !name.contains('/'))
    });
    // These directories may serve others by now.
    for made in ["bin", ".local", ".local/share", ".cache"] {
        tree.remove(std::path::Path::new(made));
    }
    tree
}

/// Kills `fetch` with these words at each call, after `prepare`; at least `calls` times.
fn kill_everywhere(scene: &Scene, prepare: fn(&Scene), words: &str, calls: usize) {
    let empty = tree(scene);
    // Once before it counts: directories above ours stay.
    prepare(scene);
    scene.fetch(words).assert(0, "");
    clear(scene, &empty);
    prepare(scene);
    let (before, all_before) = (scene.version(), tree(scene));
    let traced = scene.traced(words);
    assert!(traced.len() >= calls, "{traced:?}");
    let (after, all_after) = (scene.version(), tree(scene));
    for call in BTreeSet::from_iter(&traced) {
        // One link after the other is made, or removed, by the same line.
        let count = traced.iter().filter(|traced| *traced == call).count();
        for number in (1..=count).step_by(count.div_ceil(8)) {
            clear(scene, &empty);
            prepare(scene);
            assert_eq!(tree(scene), all_before, "{call} {number} of `{words}`");
            assert!(scene.fetch_until(call, number, words), "{call} {number} of `{words}`");
            // Fails by itself if it is a mixture.
            let between = scene.version();
            assert!(
                between == before || between == after,
                "{call} {number} of `{words}`: {between:?} is neither {before:?} nor {after:?}"
            );
            // A rollback that was made is not made again.
            let is_made = words == "--rollback" && between == after;
            if !is_made {
                scene.fetch(words).assert(0, "");
                assert_eq!(tree(scene), all_after, "{call} {number} of `{words}`");
            }
        }
    }
    clear(scene, &empty);
}

/// Removes everything by `fetch --remove`, whatever was begun, and the programs that this put back.
fn clear(scene: &Scene, empty: &BTreeMap<PathBuf, String>) {
    scene.fetch("--remove").assert(0, "");
    assert!(!scene.store().exists());
    for (name, _) in scene.told() {
        std::fs::remove_file(scene.bin().join(name)).expect("removed");
    }
    let _ = std::fs::remove_file(scene.bin().join("docker-novelty"));
    assert_eq!(&tree(scene), empty);
}

fn fetch_old(scene: &Scene) {
    scene.fetch(&format!("--version {OLD}")).assert(0, OLD);
}

#[test]
fn a_first_fetch_may_be_killed_anywhere() {
    kill_everywhere(&Scene::with(&[NEW]), |_| {}, &format!("--version {NEW}"), 20);
}

#[test]
fn an_upgrade_may_be_killed_anywhere() {
    kill_everywhere(&Scene::with(&[OLD, NEW]), fetch_old, &format!("--version {NEW}"), 10);
}

#[test]
fn taking_over_may_be_killed_anywhere() {
    kill_everywhere(&Scene::with(&[NEW]), put_foreign, &format!("--version {NEW}"), 20);
}

#[test]
fn a_rollback_may_be_killed_anywhere() {
    let both = |scene: &Scene| {
        scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
        fetch_old(scene);
    };
    kill_everywhere(&Scene::with(&[OLD, NEW]), both, "--rollback", 2);
}

#[test]
fn a_removal_may_be_killed_anywhere() {
    kill_everywhere(&Scene::with(&[OLD]), fetch_old, "--remove", 15);
    let over_foreign = |scene: &Scene| {
        put_foreign(scene);
        scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
    };
    kill_everywhere(&Scene::with(&[NEW]), over_foreign, "--remove", 20);
}
