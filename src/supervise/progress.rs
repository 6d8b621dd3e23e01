//! Finds out whether a process that does not answer works, is stopped, or does nothing at all. Slow
//! is not dead: only the last of these says that it hangs, and only after a while.

use std::fs;
use std::time::{Duration, Instant};

use crate::sys::processes::{self, Identity};

/// How often to look.
pub const LOOK: Duration = Duration::from_secs(5);

/// How long a process does nothing at all before it counts as hung.
pub const HUNG: Duration = Duration::from_secs(30);

/// Look later than this, and the machine slept, or we were frozen: what was seen before says
/// nothing.
const LATE: Duration = Duration::from_secs(8);

/// From which share of the last ten seconds, in percent, in which something waited for memory or a
/// disk, a process that sleeps may wait for another that does.
const PRESSURE: f64 = 20.0;

/// The most that an idle process does between two looks: clock ticks, and reads and writes.
const IDLE_TICKS: u64 = 1;
const IDLE_CALLS: u64 = 16;

/// Why a process does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It works, wants a processor, or waits for the kernel, or the machine is short of memory or disk.
    Busy,
    /// It was stopped, is traced, or frozen.
    Stopped,
    /// It does nothing, and has not done so for long.
    Still,
    /// It has done nothing at all for [`HUNG`].
    Hung,
}

/// What a process has done so far, and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    /// Processor time in clock ticks, and how often it has read and written.
    work: (u64, u64),
    /// Whether a thread wants a processor, or waits in the kernel and cannot be interrupted, or the
    /// machine is under pressure.
    is_busy: bool,
    is_stopped: bool,
}

/// Watches a process, from one look to the next.
pub struct Watch {
    identity: Identity,
    last: Option<Sample>,
    looked: Instant,
    still_since: Instant,
}

impl Watch {
    pub fn new(identity: Identity) -> Self {
        let now = Instant::now();
        Self { identity, last: sample(identity.pid), looked: now, still_since: now }
    }

    /// Says what the process has done since the last look. Look every [`LOOK`].
    pub fn look(&mut self) -> Silence {
        let now = Instant::now();
        let is_late = now - self.looked > LATE;
        self.looked = now;
        let sample = sample(self.identity.pid);
        let silence = judge(self.last, sample, is_late);
        self.last = sample;
        if silence != Silence::Still {
            self.still_since = now;
        } else if now - self.still_since >= HUNG {
            return Silence::Hung;
        }
        silence
    }
}

/// Judges two samples, one after the other. What is not known counts as work.
fn judge(before: Option<Sample>, now: Option<Sample>, is_late: bool) -> Silence {
    match (before, now) {
        (_, Some(now)) if now.is_stopped => Silence::Stopped,
        (Some(before), Some(now)) if !is_late && !now.is_busy && is_idle(before.work, now.work) => {
            Silence::Still
        }
        _ => Silence::Busy,
    }
}

/// Says whether a process has done no more than any program in Go does by itself, with its timers
/// and its garbage collector.
fn is_idle(before: (u64, u64), now: (u64, u64)) -> bool {
    now.0.saturating_sub(before.0) <= IDLE_TICKS && now.1.saturating_sub(before.1) <= IDLE_CALLS
}

fn sample(pid: u32) -> Option<Sample> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let states = processes::states(pid);
    let status = read("status")?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    let is_frozen = read("wchan").is_some_and(|wchan| wchan.contains("freeze"));
    let has_stopped = states.iter().any(|state| matches!(state, 'T' | 't'));
    Some(Sample {
        work: (ticks(&read("stat")?)?, moved(&read("io")?)),
        is_busy: states.iter().any(|state| matches!(state, 'D' | 'R')) || is_under_pressure(),
        is_stopped: is_frozen || has_stopped || tracer.trim() != "0",
    })
}

/// Says whether the machine is short of memory or disk: containerd or a child of dockerd may wait for
/// these while dockerd itself sleeps.
fn is_under_pressure() -> bool {
    ["memory", "io"].iter().any(|name| {
        let text = fs::read_to_string(format!("/proc/pressure/{name}")).unwrap_or_default();
        share(&text).is_some_and(|share| share >= PRESSURE)
    })
}

/// Reads the first number of `some avg10=1.53 avg60=…`.
fn share(text: &str) -> Option<f64> {
    let words = text.lines().next()?.split(' ');
    words.filter_map(|word| word.strip_prefix("avg10=")).find_map(|share| share.parse().ok())
}

/// Reads the processor time in a line of proc_pid_stat(5).
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
}

/// Reads from proc_pid_io(5) how often a process has read and written.
fn moved(io: &str) -> u64 {
    let counts = io.lines().filter_map(|line| line.strip_prefix("sysc")?.split_once(": "));
    counts.filter_map(|(_, count)| count.parse::<u64>().ok()).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_does_nothing_at_all_is_still() {
        let still = Sample { work: (7, 900), is_busy: false, is_stopped: false };
        let worked = Sample { work: (9, 900), ..still };
        let wrote = Sample { work: (7, 917), ..still };
        let busy = Sample { is_busy: true, ..still };
        let stopped = Sample { is_stopped: true, ..still };
        for (before, now, is_late, expected) in [
            (Some(still), Some(still), false, Silence::Still),
            (Some(still), Some(busy), false, Silence::Busy),
            (Some(still), Some(still), true, Silence::Busy),
            (Some(still), Some(worked), false, Silence::Busy),
            (Some(still), Some(wrote), false, Silence::Busy),
            (Some(worked), Some(stopped), true, Silence::Stopped),
            (None, Some(still), false, Silence::Busy),
            (Some(still), None, false, Silence::Busy),
        ] {
            assert_eq!(judge(before, now, is_late), expected, "{before:?} {now:?} {is_late}");
        }
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 1 0 4711 1 2\n";
        assert_eq!(ticks(stat), Some(56));
        assert_eq!(moved("rchar: 10\nsyscr: 4\nsyscw: 3\nread_bytes: 1\n"), 7);
        assert!(is_idle((7, 900), (8, 916)) && !is_idle((7, 900), (9, 900)));
        assert!(!is_idle((7, 900), (7, 917)));
        assert_eq!(share("some avg10=1.53 avg60=0.87 avg300=0.73 total=1\n"), Some(1.53));
        assert_eq!(share(""), None);
    }
}
