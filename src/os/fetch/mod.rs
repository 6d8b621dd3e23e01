//! Getting Docker's programs: the network, the tarballs, the directory where sets lie side by side,
//! the user's shell files.

mod adopt;
pub mod archive;
pub mod download;
pub mod failpoint;
pub mod http;
pub mod lock;
mod names;
pub mod shell_files;
pub mod state;
pub mod store;
