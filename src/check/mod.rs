//! Judges a host: which problems rootless Docker has on it, why, and which commands fix them. The
//! list of checks is [`list`]; what they judge was read by [`survey`] and tried by [`trial`].

mod clients;
mod daemon;
mod evidence;
mod failures;
mod finding;
mod fix;
mod gpu;
mod hints;
mod idmap;
pub mod known;
mod limits;
mod list;
mod namespaces;
mod netfilter;
mod network;
mod packages;
mod places;
mod programs;
mod session;
mod storage;
mod subids;
pub mod survey;
pub mod trial;
pub mod trials;

pub use evidence::Evidence;
pub use failures::known_failure;
pub use finding::{Category, Finding, Id, Status};
pub use fix::Commands;
pub use list::{CHECKS, Check, Found, run};
