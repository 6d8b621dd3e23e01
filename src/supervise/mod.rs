//! The supervisor's decisions: what follows from a state and an event, and what `status` tells. Pure:
//! `os::supervisor` brings the events and performs the effects.
#![forbid(unsafe_code)]

mod machine;
mod status;

pub use machine::{
    Ask, Death, Effect, Event, How, Limit, Machine, Notice, State, Then, Verdict, Why,
};
pub use status::{ProgramFile, Status};
