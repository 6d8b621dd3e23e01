//! The harness of the suites that run the real programs: a throw-away user, the launcher started as that user, and the
//! oracle that tells what is left of both.
//!
//! It needs root (to make users), and the packages that `Makefile` installs. Nothing here sleeps for an event that can be
//! asked for, and every wait has a deadline.
#![allow(
    clippy::new_without_default,
    reason = "a user or a server comes into being, it is no default"
)]

pub mod authz;
pub mod client;
pub mod command;
pub mod daemon;
pub mod docker;
pub mod http;
pub mod launcher;
pub mod leftovers;
pub mod mirror;
pub mod process;
pub mod room;
pub mod scene;
pub mod stubs;
pub mod tarballs;
pub mod user;
pub mod user_manager;
pub mod wait;

pub use command::Told;
pub use daemon::{Daemon, Launch};
pub use docker::Docker;
pub use launcher::Launcher;
pub use leftovers::{Snapshot, assert_nothing_left};
pub use room::Room;
pub use user::TestUser;
pub use user_manager::UserManager;
