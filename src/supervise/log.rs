//! Passes on what the daemon writes and what we say to standard error, and remembers the daemon's
//! last lines. A reader that is merely slow loses nothing; one that does not read holds nothing up
//! for long.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::stderr::{self, Target};

/// How many lines are remembered, and how much of each.
const LINES: usize = 20;
const LINE_MAX: usize = 500;

/// A line without an end is passed on in parts of so many bytes.
const LINE_PART: usize = 32 * 1024;

/// How much a pipe holds, in bytes, and how much it takes at once if it takes anything (pipe(7)).
const PIPE: usize = 64 * 1024;
const PART: usize = 4096;

/// How much may wait to be read with a line of the daemon's, and with one of ours: we say little,
/// and it matters.
const DAEMON_MAX: usize = 256 * 1024;
const OWN_MAX: usize = DAEMON_MAX + PIPE;

/// How much may wait before the daemon has to wait. A full pipe has room beyond that.
const FULL: usize = DAEMON_MAX - 2 * PIPE;

/// When nothing waits, no more memory than this is kept.
const KEPT: usize = 16 * 1024;

/// How long the daemon waits for a reader before lines are dropped, as it would wait without us.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the reader of the last lines may pause, and how long it may take in all.
const FLUSH: Duration = Duration::from_secs(1);
const FLUSH_ALL: Duration = Duration::from_secs(5);

/// When to try again to write to what seems to take something and does not.
const AGAIN: Duration = Duration::from_millis(20);

type Lines = Arc<Mutex<VecDeque<String>>>;

/// The log of the daemon, and of ours as long as this is.
pub struct Log {
    last: Lines,
    /// The end of our messages: the thread stops when it is closed.
    own: Option<PipeWriter>,
    thread: Option<JoinHandle<PipeReader>>,
}

impl Log {
    /// Starts a thread that passes on what is written to the returned pipe, and our own messages.
    pub fn start() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        Ok((Self::resume(reader)?, writer))
    }

    /// Does the same for a pipe that is there already, of which `reader` is an end.
    pub fn resume(reader: PipeReader) -> io::Result<Self> {
        let log = Self::begin(reader, Target::new(io::stderr().as_fd())?)?;
        stderr::redirect(log.own.as_ref().and_then(|own| own.try_clone().ok()));
        Ok(log)
    }

    fn begin(daemon: PipeReader, target: Target) -> io::Result<Self> {
        let (own, writer) = io::pipe()?;
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let last = Lines::default();
        let passing = Passing {
            daemon,
            own,
            target,
            last: last.clone(),
            begun: Vec::new(),
            waiting: VecDeque::new(),
            dropped: 0,
        };
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .stack_size(192 * 1024)
            .spawn(move || passing.work())?;
        Ok(Self { last, own: Some(writer), thread: Some(thread) })
    }

    /// Returns the last lines so far. Behind a [`stop`](Self::stop), all that the daemon has
    /// written counts.
    pub fn last(&self) -> Vec<String> {
        self.last.lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// Passes on what has been written so far, also a line without an end, and stops. Our messages
    /// go directly to standard error from then on. The returned end of the pipe is for
    /// [`resume`](Self::resume), here or in another program: what is written meanwhile waits in the
    /// pipe.
    pub fn stop(&mut self) -> Option<PipeReader> {
        let thread = self.thread.take()?;
        stderr::redirect(None);
        self.own = None;
        thread.join().ok()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread has.
struct Passing {
    daemon: PipeReader,
    own: PipeReader,
    target: Target,
    last: Lines,
    /// A line of the daemon's that has no end yet.
    begun: Vec<u8>,
    waiting: VecDeque<u8>,
    /// How many lines found no room since the last that did.
    dropped: usize,
}

impl Passing {
    fn work(mut self) -> PipeReader {
        let mut has_writers = true;
        // When something was read, or nothing waited.
        let mut read = Instant::now();
        loop {
            if self.waiting.is_empty() {
                read = Instant::now();
            }
            let patience = PATIENCE.checked_sub(read.elapsed());
            let patience = patience.filter(|_| self.waiting.len() >= FULL);
            let takes = has_writers && patience.is_none();
            let gives = !self.waiting.is_empty();
            let [has_own, has_input, has_room] = ready(
                [
                    Some((self.own.as_fd(), PollFlags::POLLIN)),
                    takes.then_some((self.daemon.as_fd(), PollFlags::POLLIN)),
                    gives.then_some((self.target.as_fd(), PollFlags::POLLOUT)),
                ],
                patience,
            );
            if has_room && self.give() {
                read = Instant::now();
            }
            if has_input {
                has_writers = self.take() > 0;
            }
            if has_own && !self.take_own() {
                break;
            }
        }
        self.take_rest();
        let closed = Instant::now();
        let mut read = closed;
        while !self.waiting.is_empty() && closed.elapsed() < FLUSH_ALL {
            let Some(left) = FLUSH.checked_sub(read.elapsed()) else { break };
            if ready([Some((self.target.as_fd(), PollFlags::POLLOUT))], Some(left))[0]
                && self.give()
            {
                read = Instant::now();
            }
        }
        self.daemon
    }

    /// Takes what the daemon has written, and returns how much: 0 at its end.
    fn take(&mut self) -> usize {
        let mut bytes = [0; PART];
        let count = self.daemon.read(&mut bytes).unwrap_or(0);
        for part in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend(part);
            if self.begun.ends_with(b"\n") || self.begun.len() >= LINE_PART {
                self.end_line();
            }
        }
        count
    }

    /// Takes what the daemon has written until now.
    fn take_rest(&mut self) {
        let mut rest = PIPE;
        while rest > 0
            && ready([Some((self.daemon.as_fd(), PollFlags::POLLIN))], Some(Duration::ZERO))[0]
        {
            match self.take() {
                0 => break,
                count => rest = rest.saturating_sub(count),
            }
        }
        if !self.begun.is_empty() {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        self.push(&line, DAEMON_MAX);
        if let Ok(mut lines) = self.last.lock() {
            remember(&mut lines, &line);
        }
    }

    /// Takes our messages, each of them whole; `false` when no more can come.
    fn take_own(&mut self) -> bool {
        let mut bytes = [0; PIPE];
        let count = self.own.read(&mut bytes).unwrap_or(0);
        self.push(&bytes[..count], OWN_MAX);
        count > 0
    }

    /// Has `lines` wait, unless more than `max` bytes would wait then.
    fn push(&mut self, lines: &[u8], max: usize) {
        if self.waiting.len() + lines.len() > max {
            self.dropped += lines.split_inclusive(|byte| *byte == b'\n').count();
            return;
        }
        self.tell_dropped();
        self.waiting.extend(lines);
    }

    fn tell_dropped(&mut self) {
        let notice = match std::mem::take(&mut self.dropped) {
            0 => return,
            1 => "1 line was dropped: it was not read in time\n".to_owned(),
            count => format!("{count} lines were dropped: they were not read in time\n"),
        };
        self.waiting.extend(notice.as_bytes());
    }

    /// Writes some of what waits, and says whether any was taken. Without a reader, nothing waits
    /// any longer.
    fn give(&mut self) -> bool {
        let (front, _) = self.waiting.as_slices();
        match self.target.write(&front[..front.len().min(PART)]) {
            Ok(count) => drop(self.waiting.drain(..count)),
            Err(Errno::EAGAIN | Errno::EINTR) => {
                thread::sleep(AGAIN);
                return false;
            }
            Err(_) => self.waiting.clear(),
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(KEPT);
            self.tell_dropped();
        }
        true
    }
}

/// Waits until something happens to one of `sources`, and says to which.
fn ready<const N: usize>(
    sources: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    time: Option<Duration>,
) -> [bool; N] {
    let wanted = sources.iter().flatten();
    let mut polled: Vec<_> = wanted.map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    // Part of a millisecond counts as a whole one, so that it is not waited for again and again.
    let time = time.map(|time| time + Duration::from_micros(999));
    let timeout = time.and_then(|time| PollTimeout::try_from(time).ok());
    // An error other than EINTR would come again and again, and the look costs little.
    let _ = poll(&mut polled, timeout.unwrap_or(PollTimeout::NONE));
    let mut happened = polled.iter().map(|polled| polled.any().unwrap_or(false));
    sources.map(|source| source.is_some() && happened.next().unwrap_or(false))
}

/// Remembers a line. Of a panic the calls count, and not the files behind tabs that they are in:
/// else the main function is all that is left of it.
fn remember(lines: &mut VecDeque<String>, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let text: String = text.trim_end().chars().take(LINE_MAX).collect();
    if text.is_empty() || text.starts_with('\t') {
        return;
    }
    if lines.len() == LINES {
        lines.pop_front();
    }
    lines.push_back(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// A log, the pipe that it reads, and what it writes to, as the one who reads has it.
    fn begin(target: &OwnedFd) -> (Log, PipeWriter) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let target = Target::new(target.as_fd()).expect("a target");
        (Log::begin(reader, target).expect("a log"), writer)
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader.into(), writer.into())
    }

    fn sockets() -> (OwnedFd, OwnedFd) {
        let (one, other) = UnixStream::pair().expect("sockets");
        (one.into(), other.into())
    }

    fn read_all(from: OwnedFd) -> String {
        let mut text = String::new();
        std::fs::File::from(from).read_to_string(&mut text).expect("text");
        text
    }

    fn lines(count: usize) -> String {
        (0..count).map(|n| format!("line {n:06}\n")).collect()
    }

    #[test]
    fn of_a_panic_the_reason_and_all_calls_are_remembered() {
        let mut last = VecDeque::new();
        let mut say = |line: &str| remember(&mut last, line.as_bytes());
        say("level=info msg=\"Loading containers\"\n");
        say("panic: index out of range\n");
        say("\n");
        for call in 1..LINES {
            say(&format!("call{call}()\n"));
            say(&format!("\t/src/file.go:{call} +0x5d\n"));
        }
        assert_eq!(last.len(), LINES);
        assert_eq!(last[0], "panic: index out of range");
        assert_eq!(last[1], "call1()");
    }

    #[test]
    fn whoever_reads_gets_every_line_also_of_a_flood() {
        for (reader, writer) in [pipe(), sockets()] {
            let (mut log, mut daemon) = begin(&writer);
            drop(writer);
            let said = lines(100_000);
            let all = thread::spawn(|| read_all(reader));
            daemon.write_all(said.as_bytes()).expect("write");
            drop(log.stop());
            drop(log);
            assert!(all.join().expect("no panic") == said);
        }
    }

    #[test]
    fn nobody_waits_for_one_who_does_not_read_and_what_is_dropped_is_counted() {
        const DAEMON: usize = 200_000;
        const OWN: usize = 10;
        for (reader, writer) in [pipe(), sockets()] {
            let (mut log, mut daemon) = begin(&writer);
            drop(writer);
            daemon.write_all(lines(DAEMON).as_bytes()).expect("write");
            let own = log.own.as_mut().expect("it runs");
            own.write_all(&b"ours\n".repeat(OWN)).expect("write");
            let begin = Instant::now();
            drop(log.stop());
            assert!(begin.elapsed() < FLUSH * 2, "{:?}", begin.elapsed());
            let last = log.last();
            assert_eq!(last.len(), LINES);
            assert_eq!(last.last().map(String::as_str), Some("line 199999"));
            drop(log);
            let got = read_all(reader);
            assert!(lines(DAEMON).starts_with(&got), "in order, without a gap");
        }
    }

    #[test]
    fn one_who_reads_again_is_told_how_many_lines_are_missing() {
        const COUNT: usize = 200_000;
        let (reader, writer) = pipe();
        let (mut log, mut daemon) = begin(&writer);
        drop(writer);
        daemon.write_all(lines(COUNT).as_bytes()).expect("write");
        let all = thread::spawn(|| read_all(reader));
        drop(log.stop());
        drop(log);
        let got = all.join().expect("no panic");
        let notices: Vec<_> = got.lines().filter(|line| line.contains("dropped")).collect();
        let dropped: usize = notices
            .iter()
            .map(|line| line.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0))
            .sum();
        assert!(dropped > 0);
        assert_eq!(got.lines().count() - notices.len() + dropped, COUNT);
    }

    #[test]
    fn a_log_that_stops_passes_on_what_there_is_and_another_goes_on() {
        let (reader, writer) = pipe();
        let (mut log, mut daemon) = begin(&writer);
        daemon.write_all(b"one\ntw").expect("write");
        let rest = log.stop().expect("the pipe");
        assert_eq!(log.last(), ["one", "tw"]);
        assert!(log.stop().is_none());
        daemon.write_all(b"o\nthree\n").expect("write");
        let target = Target::new(writer.as_fd()).expect("a target");
        let mut log = Log::begin(rest, target).expect("a log");
        drop((daemon, writer));
        drop(log.stop());
        assert_eq!(log.last(), ["o", "three"]);
        drop(log);
        assert_eq!(read_all(reader), "one\ntwo\nthree\n");
    }

    #[test]
    fn where_nobody_listens_the_last_lines_still_count() {
        let (reader, writer) = pipe();
        drop(reader);
        let (mut log, mut daemon) = begin(&writer);
        daemon.write_all(lines(50_000).as_bytes()).expect("write");
        drop(log.stop());
        assert_eq!(log.last().last().map(String::as_str), Some("line 049999"));
    }
}
