//! `dockerd-rootless` starts rootless Docker: it reads settings, looks at the host, decides, and
//! becomes rootlesskit, which runs dockerd in namespaces of its own.
//!
//! The rooms, in the order in which data flows; each imports only from those above it.

pub mod error;

pub mod words;

pub mod environment;

pub mod oci;

pub mod sys;

pub mod settings;

pub mod facts;

pub mod plan;

pub mod stage;

pub mod supervise;

pub mod check;

pub mod setup;

pub mod fetch;

pub mod verify;

pub mod cli;
