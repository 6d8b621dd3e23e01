//! What the daemon writes goes where our own messages go, and the last of it is remembered.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::stderr;
use crate::sys::stderr::{DAEMON_MAX, Queue, Target};

/// How many lines are remembered, and how much of each.
const LINES: usize = 20;
const LINE_MAX: usize = 500;

/// A line without an end is passed on in parts of so many bytes.
const PART: usize = 32 * 1024;

/// How much a pipe holds, in bytes (pipe(7)).
const PIPE: usize = 64 * 1024;

/// How much may wait to be read before the daemon has to wait. A full pipe has room beyond that.
const FULL: usize = DAEMON_MAX - 2 * PIPE;

/// How long nobody may read anything before lines are dropped. Until then the daemon waits, as it
/// would without us: a reader who is merely slow loses nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the last lines may take to be read if somebody reads, and if nobody does.
const FLUSH: Duration = Duration::from_secs(5);
const FLUSH_UNREAD: Duration = Duration::from_secs(1);

/// When to try again to write to what seems to take something and does not.
const AGAIN: Duration = Duration::from_millis(20);

type Lines = Arc<Mutex<VecDeque<String>>>;

/// The log of the daemon, and of ours as long as this is.
pub struct Log {
    last: Lines,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<PipeReader>>,
}

impl Log {
    /// Begins to pass on what is written to the returned pipe, and our own messages. A thread does
    /// it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        Ok((Self::resume(reader)?, writer))
    }

    /// The same for a pipe that is there already, of which `reader` is an end.
    ///
    /// # Errors
    /// What the system says.
    pub fn resume(reader: PipeReader) -> io::Result<Self> {
        let log = Self::begin(reader, Target::new(io::stderr().as_fd())?)?;
        stderr::redirect(Some(log.queue.clone()));
        Ok(log)
    }

    fn begin(reader: PipeReader, target: Target) -> io::Result<Self> {
        let (queue, waker) = Queue::new()?;
        let (queue, last) = (Arc::new(queue), Lines::default());
        let passing = Passing {
            reader,
            waker,
            target,
            queue: queue.clone(),
            last: last.clone(),
            begun: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || passing.work())?;
        Ok(Self { last, queue, thread: Some(thread) })
    }

    /// The last lines so far. Behind a [`stop`](Self::stop), all that the daemon has written counts.
    pub fn last(&self) -> Vec<String> {
        self.last.lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// Passes on what has been written so far, also where a line has no end, and stops. Our messages
    /// go directly to standard error from then on. Takes a second if nobody reads, and
    /// five at most. The
    /// returned end of the pipe is for [`resume`](Self::resume), here or in another program: what is
    /// written meanwhile waits in the pipe. A log that has been stopped before has none.
    pub fn stop(&mut self) -> Option<PipeReader> {
        let thread = self.thread.take()?;
        stderr::redirect(None);
        self.queue.close();
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
    reader: PipeReader,
    waker: PipeReader,
    target: Target,
    queue: Arc<Queue>,
    last: Lines,
    /// A line that has no end yet.
    begun: Vec<u8>,
}

impl Passing {
    fn work(mut self) -> PipeReader {
        let mut has_writers = true;
        // When somebody has read, or there was nothing to read.
        let mut read = Instant::now();
        let mut closed: Option<Instant> = None;
        let mut is_stuck = false;
        loop {
            let length = self.queue.length();
            if length == 0 {
                read = Instant::now();
            }
            let waits_for_reader = length >= FULL && read.elapsed() < PATIENCE;
            let takes = has_writers && closed.is_none() && !waits_for_reader;
            let gives = length > 0 && !is_stuck;
            let timeout = match closed {
                Some(_) if length == 0 => return self.reader,
                Some(closed)
                    if closed.elapsed() >= FLUSH || read.max(closed).elapsed() >= FLUSH_UNREAD =>
                {
                    return self.reader;
                }
                _ if is_stuck => Some(AGAIN),
                Some(_) => Some(FLUSH_UNREAD),
                None if waits_for_reader => Some(PATIENCE.saturating_sub(read.elapsed())),
                None => None,
            };
            let [is_woken, has_input, has_room] = self.wait(takes, gives, timeout);
            is_stuck = false;
            if has_room {
                match self.queue.write_to(&self.target) {
                    true => read = Instant::now(),
                    false => is_stuck = true,
                }
            }
            if has_input {
                has_writers = self.take() > 0;
            }
            if is_woken && self.queue.woken(&mut self.waker) && closed.is_none() {
                self.take_rest();
                closed = Some(Instant::now());
            }
        }
    }

    /// Waits until somebody wakes us, or there is something to take, or room to give.
    fn wait(&self, takes: bool, gives: bool, timeout: Option<Duration>) -> [bool; 3] {
        let waker = self.waker.as_fd();
        let wanted = |is_wanted, fd, flags| match is_wanted {
            true => PollFd::new(fd, flags),
            false => PollFd::new(waker, PollFlags::empty()),
        };
        let mut polled = [
            wanted(true, waker, PollFlags::POLLIN),
            wanted(takes, self.reader.as_fd(), PollFlags::POLLIN),
            wanted(gives, self.target.as_fd(), PollFlags::POLLOUT),
        ];
        // Milliseconds count as a whole, so that none is waited for with no time at all.
        let timeout = timeout.map(|time| time + Duration::from_millis(1));
        let timeout = timeout.and_then(|time| PollTimeout::try_from(time).ok());
        // An error other than EINTR would come again and again, and the look costs little.
        let _ = poll(&mut polled, timeout.unwrap_or(PollTimeout::NONE));
        polled.map(|polled| polled.any().unwrap_or(false))
    }

    /// Takes what the pipe has, which has something, and returns how much: 0 at its end.
    fn take(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let count = self.reader.read(&mut bytes).unwrap_or(0);
        for part in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend(part);
            if self.begun.ends_with(b"\n") || self.begun.len() >= PART {
                self.end_line();
            }
        }
        count
    }

    /// Takes what was written to the pipe until now.
    fn take_rest(&mut self) {
        let mut rest = PIPE;
        while rest > 0 && self.wait(true, false, Some(Duration::ZERO))[1] {
            let count = self.take();
            rest = if count == 0 { 0 } else { rest.saturating_sub(count) };
        }
        if !self.begun.is_empty() {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        self.queue.push(&self.begun, DAEMON_MAX);
        if let Ok(mut lines) = self.last.lock() {
            remember(&mut lines, &self.begun);
        }
        self.begun.clear();
    }
}

/// Remembers a line. Of a panic the calls count, and not the files behind tabs that they are in: else
/// the main function is all that is left of it.
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
            for _ in 0..OWN {
                log.queue.push(b"ours\n", DAEMON_MAX + 4096);
                log.queue.wake();
            }
            let begin = Instant::now();
            drop(log.stop());
            assert!(begin.elapsed() < FLUSH, "{:?}", begin.elapsed());
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
