//! `verify` on real daemons, and its registry with real clients.

mod requests;
mod served;
mod skopeo;
