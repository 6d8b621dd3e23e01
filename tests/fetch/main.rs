//! `dockerd-rootless fetch` and `install/install.sh` against a server on loopback, as a throw-away user.
//!
//! Programs are small scripts that tell their version, so that a test can ask which version is in use; one test takes the
//! real ones. Every failure ends with the same question: is all as it was before, or all new?

mod archives;
mod kills;
mod network;
mod places;
mod release;
mod scene;
mod script;
mod tls;
mod whole;
