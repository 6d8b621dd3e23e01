//! Installing, upgrading and removing: what there is and what is asked for give a list of actions,
//! which can be printed, and is empty when all is as it should be.

mod plan;
#[cfg(test)]
mod tests;
mod unit;

pub use plan::{
    Action, CONTEXT, InstallRequest, SetupPlan, UninstallRequest, UpgradeRequest, as_root, beside,
    enable_linger, start_by_hand,
};
pub use unit::{SERVICE, SOCKET, kept_parameters};

mod look;
mod manager;
mod perform;
pub mod purge;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::facts::SetupFacts;
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
