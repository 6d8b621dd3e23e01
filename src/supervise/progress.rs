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

/// From which share of the last ten seconds, in percent, in which something waited for a processor,
/// the memory or a disk (`/proc/pressure`), the machine is under pressure.
const PRESSURE: f64 = 20.0;

/// The most that an idle process does between two looks: clock ticks, and reads and writes.
const IDLE_TICKS: u64 = 1;
const IDLE_CALLS: u64 = 16;

/// Why a process does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It works, or waits for the kernel.
    Busy,
    /// It may want to, and the machine has no time for it.
    Pressure,
    /// Somebody has stopped it, or traces it, or it is frozen.
    Stopped,
    /// It does nothing, and has not done so for long.
    Still,
    /// It has done nothing at all for [`HUNG`].
    Hung,
}

/// What a process has done so far, and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    /// Processor time in clock ticks, and what was read and written: any of it grows with work.
    work: (u64, u64),
    /// Whether a thread waits in the kernel and cannot be interrupted.
    waits: bool,
    /// Whether a thread wants a processor.
    is_runnable: bool,
    /// Whether it is stopped, traced or frozen.
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
        let silence = judge(self.last, sample, is_late, Pressure::read());
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
fn judge(
    before: Option<Sample>,
    now: Option<Sample>,
    is_late: bool,
    pressure: Pressure,
) -> Silence {
    match (before, now) {
        (_, Some(now)) if now.is_stopped => Silence::Stopped,
        (Some(before), Some(now)) if !is_late && !now.waits && is_idle(before.work, now.work) => {
            // A process that sleeps is not short of processor time.
            match pressure.memory_or_disk || (pressure.processor && now.is_runnable) {
                true => Silence::Pressure,
                false => Silence::Still,
            }
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
        waits: states.contains(&'D'),
        is_runnable: states.contains(&'R'),
        is_stopped: is_frozen || has_stopped || tracer.trim() != "0",
    })
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

/// What the machine is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pressure {
    processor: bool,
    memory_or_disk: bool,
}

impl Pressure {
    fn read() -> Self {
        let is_high = |name| {
            let text = fs::read_to_string(format!("/proc/pressure/{name}")).unwrap_or_default();
            share(&text).is_some_and(|share| share >= PRESSURE)
        };
        Self { processor: is_high("cpu"), memory_or_disk: is_high("memory") || is_high("io") }
    }
}

/// Reads the first number of `some avg10=1.53 avg60=…`.
fn share(text: &str) -> Option<f64> {
    let words = text.lines().next()?.split(' ');
    words.filter_map(|word| word.strip_prefix("avg10=")).find_map(|share| share.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_does_nothing_at_all_is_still() {
        let still = Sample { work: (7, 900), waits: false, is_runnable: false, is_stopped: false };
        let wants = Sample { is_runnable: true, ..still };
        let none = Pressure { processor: false, memory_or_disk: false };
        let processor = Pressure { processor: true, ..none };
        let disk = Pressure { memory_or_disk: true, ..none };
        let worked = Sample { work: (9, 900), ..still };
        let wrote = Sample { work: (7, 917), ..still };
        let waits = Sample { waits: true, ..still };
        let stopped = Sample { is_stopped: true, ..still };
        for (before, now, is_late, pressure, expected) in [
            (Some(still), Some(still), false, none, Silence::Still),
            (Some(still), Some(still), false, disk, Silence::Pressure),
            (Some(still), Some(still), false, processor, Silence::Still),
            (Some(still), Some(wants), false, processor, Silence::Pressure),
            (Some(still), Some(wants), false, none, Silence::Still),
            (Some(still), Some(still), true, none, Silence::Busy),
            (Some(still), Some(worked), false, none, Silence::Busy),
            (Some(still), Some(wrote), false, disk, Silence::Busy),
            (Some(still), Some(waits), false, none, Silence::Busy),
            (Some(worked), Some(stopped), true, disk, Silence::Stopped),
            (None, Some(still), false, none, Silence::Busy),
            (Some(still), None, false, none, Silence::Busy),
        ] {
            let got = judge(before, now, is_late, pressure);
            assert_eq!(got, expected, "{before:?} {now:?} {is_late} {pressure:?}");
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
