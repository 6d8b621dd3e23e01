//! The edge: system calls, files, processes. The only room with unsafe code. What it reads it
//! returns as plain data, and what it does it was told by a plan.

pub mod ask;
pub mod fetch;
pub mod files;
mod keeper;
pub mod launch;
pub mod namespace;
mod netfilter;
mod netlink;
pub mod nsenter;
mod orders;
pub mod probe;
mod process;
pub mod session;
pub mod setup;
pub mod sockets;
pub mod stderr;
pub mod supervisor;
pub mod survey;
pub mod trial;
mod unix_sockets;
