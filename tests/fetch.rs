//! `dockerd-rootless fetch` and `install/install.sh` against a server on loopback, as a throw-away user.
//!
//! Programs are small scripts that tell their version, so that a test can ask which version is in use; one test takes the
//! real ones. Every failure ends with the same question: is all as it was before, or all new?

mod support;

#[path = "fetch/archives.rs"]
mod archives;
#[path = "fetch/kills.rs"]
mod kills;
#[path = "fetch/mirror.rs"]
mod mirror;
#[path = "fetch/network.rs"]
mod network;
#[path = "fetch/places.rs"]
mod places;
#[path = "fetch/release.rs"]
mod release;
#[path = "fetch/scene.rs"]
mod scene;
#[path = "fetch/script.rs"]
mod script;
#[path = "fetch/tls.rs"]
mod tls;
#[path = "fetch/whole.rs"]
mod whole;
