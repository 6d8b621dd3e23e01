//! Installs: looks at what there is, and carries out what was decided.

mod look;
mod manager;
mod perform;
pub mod purge;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::host::SetupFacts;
pub use look::{at_home, look, own_program};
pub use perform::{Installer, show_service, wait_for_manager};

/// Where the program `name` is for whom `facts` are about.
fn find(name: &str, facts: &SetupFacts) -> Option<PathBuf> {
    find_beside(name, &facts.search_path, &facts.program)
}

/// Where the program `name` is: in PATH, or beside `program`, whose directory a shell need not have
/// in its PATH yet.
fn find_beside(name: &str, search_path: &OsStr, program: &Path) -> Option<PathBuf> {
    let beside = program.with_file_name(name);
    let found = which::which_in(name, Some(search_path), "/").ok();
    found.or_else(|| beside.is_file().then_some(beside))
}
