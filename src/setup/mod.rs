//! Installs, upgrades and removes: what there is and what is asked for give a list of actions, which
//! can be printed, and is empty when all is as it should be.

mod facts;
mod inspect;
mod perform;
mod plan;
pub mod purge;
#[cfg(test)]
mod tests;
mod units;

pub use facts::{Home, Manager, SetupFacts};
pub use inspect::inspect;
pub use perform::perform;
pub use plan::{Action, InstallRequest, SetupPlan, enable_linger, host, no_manager, stray_daemon};
pub use units::SERVICE;
