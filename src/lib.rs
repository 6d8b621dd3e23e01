//! `dockerd-rootless` starts rootless Docker: it reads settings, looks at the host, decides, and
//! becomes rootlesskit, which runs dockerd in namespaces of its own.
//!
//! The rooms, in the order in which data flows; each imports only from those above it, but for
//! `command`, where the pure rooms and the edge meet.

pub mod cli;
pub mod command;
pub mod environment;
pub mod error;
pub mod host;
pub mod os;
pub mod plan;
pub mod report;
pub mod settings;
pub mod words;
