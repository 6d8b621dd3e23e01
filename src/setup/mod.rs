//! Installing, upgrading and removing: what there is and what is asked for give a list of actions,
//! which can be printed, and is empty when all is as it should be.
#![forbid(unsafe_code)]

mod plan;
#[cfg(test)]
mod tests;
mod unit;

pub use plan::{
    Action, CONTEXT, InstallRequest, SetupPlan, UninstallRequest, UpgradeRequest, as_root, beside,
    enable_linger, start_by_hand,
};
pub use unit::{SERVICE, SOCKET, kept_parameters};
