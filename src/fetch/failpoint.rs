//! Steps at which a test can have us killed, to see that nothing is ever half done. Release builds
//! have none.

/// Every step, in the order in which a first `fetch` passes them; those of an adoption, of
/// `--rollback` and of `--remove` follow.
#[cfg(debug_assertions)]
pub const ALL: [&str; 20] = [
    "staging-made",
    "downloading",
    "downloaded",
    "unpacking",
    "unpacked",
    "set-placed",
    "state-written",
    "link-made",
    "links-made",
    "switched",
    "previous-set",
    "links-dropped",
    "shell-file-edited",
    "pruned",
    "adopted-placed",
    "adopted-link",
    "rolled-back",
    "remove-switched",
    "remove-links",
    "remove-sets",
];

/// Ends us with SIGKILL if the variable `DOCKERD_ROOTLESS_FAILPOINT` names this step.
#[cfg(debug_assertions)]
pub fn pass(step: &str) {
    debug_assert!(ALL.contains(&step), "{step}");
    if std::env::var_os("DOCKERD_ROOTLESS_FAILPOINT").is_some_and(|named| named == step) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn pass(_step: &str) {}
