//! SIGKILL at every step: the old state or the new one, never a mixture, and the next run ends what was begun.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dockerd_rootless::fetch::failpoint;

use super::release::{DOCKER, script};
use super::scene::{NEW, OLD, Scene};

/// A way to come from one state to another.
struct Way {
    name: &'static str,
    prepare: fn() -> Scene,
    words: String,
}

/// Upstream's programs lie in `~/bin`.
pub fn with_foreign() -> Scene {
    let scene = Scene::with(&[OLD, NEW]);
    for program in DOCKER.iter().chain(&["rootlesskit"]) {
        scene.user.write(&scene.bin().join(program), script(program, OLD));
    }
    scene
}

fn ways() -> Vec<Way> {
    let way = |name, prepare, words: &str| Way { name, prepare, words: words.to_owned() };
    vec![
        way("first", || Scene::with(&[NEW]), &format!("--version {NEW}")),
        way("upgrade", || Scene::have(OLD), &format!("--version {NEW}")),
        way("adoption", with_foreign, &format!("--version {NEW}")),
        way(
            "rollback",
            || {
                let scene = Scene::have(NEW);
                scene.fetch(&format!("--version {OLD}")).assert(0, OLD);
                scene
            },
            "--rollback",
        ),
        way("removal", || Scene::have(OLD), "--remove"),
        way(
            "removal of an adoption",
            || {
                let scene = with_foreign();
                scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
                scene
            },
            "--remove",
        ),
    ]
}

/// The tree without what differs from user to user and from run to run.
fn tree(scene: &Scene) -> BTreeMap<PathBuf, String> {
    let mut tree = scene.tree();
    let home = scene.user.home.display().to_string();
    let uid = format!(" {} ", scene.user.uid);
    let state = PathBuf::from(".local/share/dockerd-rootless/state.json");
    if let Some(content) = tree.get_mut(&state) {
        *content = std::fs::read_to_string(scene.user.home.join(&state)).expect("the state");
    }
    for content in tree.values_mut() {
        *content = content.replace(&home, "~").replace(&uid, " ");
    }
    // These name the directory of the programs.
    for file in [".profile", ".bashrc"] {
        let text = std::fs::read_to_string(scene.user.home.join(file)).unwrap_or_default();
        tree.insert(file.into(), text.replace(&home, "~"));
    }
    tree
}

/// Kills one way at one step; whether it comes there.
fn kill(way: &Way, step: &str) -> bool {
    let scene = (way.prepare)();
    let before = scene.version();
    if !scene.fetch_until(step, &way.words) {
        return false;
    }
    // Fails by itself if it is a mixture.
    let between = scene.version();
    let whole = (way.prepare)();
    whole.fetch(&way.words).assert(0, "");
    let after = whole.version();
    assert!(
        between == before || between == after,
        "{} at {step}: {between:?} is neither {before:?} nor {after:?}",
        way.name
    );
    // A rollback that was made is not made again.
    let is_made = way.name == "rollback" && between == after;
    if !is_made {
        scene.fetch(&way.words).assert(0, "");
        assert_eq!(tree(&scene), tree(&whole), "{} at {step}", way.name);
    }
    // And all of it goes, whatever was begun.
    for scene in [&scene, &whole] {
        scene.fetch("--remove").assert(0, "");
        assert!(!scene.store().exists(), "{} at {step}", way.name);
    }
    assert_eq!(tree(&scene), tree(&whole), "{} at {step}", way.name);
    true
}

/// Kills one way at every step, and fails unless it comes to these, and to no other.
fn kill_everywhere(name: &str, expected: &[&str]) {
    let ways = ways();
    let way = ways.iter().find(|way| way.name == name).expect("a way");
    let passed: Vec<_> = failpoint::ALL.into_iter().filter(|step| kill(way, step)).collect();
    assert_eq!(passed, expected, "{name}");
}

/// What a fetch of a version that is not there yet comes to, in order.
const FETCH: [&str; 12] = [
    "staging-made",
    "downloading",
    "downloaded",
    "unpacking",
    "unpacked",
    "set-placed",
    "state-written",
    "links-made",
    "switched",
    "previous-set",
    "links-dropped",
    "pruned",
];

/// The same with others, each where it stands in the list of all.
fn fetch_with(others: &[&'static str]) -> Vec<&'static str> {
    let comes = |step: &&str| FETCH.contains(step) || others.contains(step);
    failpoint::ALL.into_iter().filter(comes).collect()
}

#[test]
fn a_first_fetch_may_be_killed_anywhere() {
    kill_everywhere("first", &fetch_with(&["link-made", "shell-file-edited"]));
}

#[test]
fn an_upgrade_may_be_killed_anywhere() {
    kill_everywhere("upgrade", &fetch_with(&[]));
}

#[test]
fn an_adoption_may_be_killed_anywhere() {
    let others = ["link-made", "shell-file-edited", "adopted-placed", "adopted-link"];
    kill_everywhere("adoption", &fetch_with(&others));
}

#[test]
fn a_rollback_may_be_killed_anywhere() {
    let steps = ["links-made", "switched", "previous-set", "links-dropped", "rolled-back"];
    kill_everywhere("rollback", &steps);
}

#[test]
fn a_removal_may_be_killed_anywhere() {
    let steps = ["remove-switched", "remove-links", "remove-sets"];
    kill_everywhere("removal", &steps);
    kill_everywhere("removal of an adoption", &steps);
}
