//! Waiting for what other programs do: ask often, give up at a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Short enough to be no part of a measured start, long enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(2);

/// For whatever takes well under a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `probe` until it answers; `None` at the deadline.
pub fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(PAUSE);
    }
}

/// Asks `probe` until it answers, and fails the test when it does not.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    poll(PATIENCE, probe).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}
