//! `verify` on real daemons, and its registry with real clients.

mod daemons;
mod foreign;
mod requests;
mod served;
mod skopeo;
mod socket;
