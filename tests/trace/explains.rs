//! explains
