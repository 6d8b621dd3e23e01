//! Inside the namespaces: what the stage prepares there, and the keeper that stays.

pub mod keeper;
pub mod launch;
pub mod namespace;
pub mod netfilter;
pub mod nsenter;
pub mod orders;
pub mod source_ip;
