//! Images as data: manifests and indexes of Docker and OCI, how their bytes are written and
//! recognised, how an image is built, and what a registry answers. Nothing here does any input or
//! output.
#![forbid(unsafe_code)]

pub mod build;
pub mod manifest;
pub mod serve;
