//! What any room may need of the system: children, files, sockets, processes. Nothing here knows of Docker.

pub mod elevate;
pub mod files;
pub mod lock;
pub mod netlink;
pub mod notify;
pub mod process;
pub mod processes;
pub mod sockets;
pub mod stderr;
pub mod stdout;
pub mod terminal;
pub mod unix_sockets;
pub mod wait;
