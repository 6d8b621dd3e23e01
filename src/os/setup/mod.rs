//! Installs: looks at what there is, and carries out what was decided.

mod look;
mod manager;
mod perform;
pub mod purge;

pub use look::{at_home, look, own_program};
pub use perform::{Installer, show_service, wait_for_manager};
