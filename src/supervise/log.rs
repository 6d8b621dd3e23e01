//! Passes on what the daemon writes and what we say to standard error, and remembers the daemon's
//! last lines. One thread reads and another writes: a reader that is merely slow loses nothing, and
//! one that does not read holds nothing up for long.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::stderr;

/// How many lines are remembered, and how much of each.
const LINES: usize = 20;
const LINE_MAX: usize = 500;

/// A line without an end is passed on in parts of so many bytes.
const LINE_PART: usize = 32 * 1024;

/// How many bytes a pipe holds.
const PIPE: usize = 64 * 1024;

/// How much may wait with a line of the daemon's, and with one of ours: we say little, and it matters.
const DAEMON_MAX: usize = 256 * 1024;
const OWN_MAX: usize = DAEMON_MAX + PIPE;

/// How long the daemon waits for a reader before lines are dropped, as it would wait without us.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the last lines may take.
const FLUSH: Duration = Duration::from_secs(2);

/// When to try again where there is no room.
const AGAIN: Duration = Duration::from_millis(5);

/// The log of the daemon, and of ours as long as this is.
pub struct Log {
    last: Arc<Mutex<VecDeque<String>>>,
    /// What waits, the thread that reads, and what ends that when it is closed.
    running: Option<(Arc<Queue>, JoinHandle<()>, PipeWriter)>,
}

impl Log {
    /// Starts to pass on what is written to the pipe of `reader`, and our own messages.
    pub fn resume(reader: PipeReader) -> io::Result<Self> {
        let (log, queue) = Self::begin(reader, io::stderr().as_fd().try_clone_to_owned()?)?;
        stderr::redirect(Some(Box::new(move |message| {
            if !queue.push(message, OWN_MAX) {
                queue.dropped.fetch_add(1, Ordering::Relaxed);
            }
        })));
        Ok(log)
    }

    fn begin(daemon: PipeReader, target: OwnedFd) -> io::Result<(Self, Arc<Queue>)> {
        let (stop, stopper) = io::pipe()?;
        let (sender, parts) = mpsc::channel::<Vec<u8>>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let queue = Arc::new(Queue { sender, waiting: waiting.clone(), dropped: 0.into() });
        let last = Arc::default();
        let thread = || thread::Builder::new().name("log".to_owned());
        thread().spawn(move || {
            let target = File::from(target);
            for part in parts {
                write(&target, &part);
                waiting.fetch_sub(part.len(), Ordering::Relaxed);
            }
        })?;
        let (pushed, remembered) = (queue.clone(), Arc::clone(&last));
        let reading = thread().spawn(move || read(daemon, &stop, &pushed, &remembered))?;
        Ok((Self { last, running: Some((queue.clone(), reading, stopper)) }, queue))
    }

    /// Returns the last lines so far. Behind a [`stop`](Self::stop), all that the daemon has
    /// written counts.
    pub fn last(&self) -> Vec<String> {
        self.last.lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// Passes on what has been written so far, also a line without an end, and stops. Our messages
    /// go directly to standard error from then on, and what is written waits in the pipe.
    pub fn stop(&mut self) {
        let Some((queue, thread, stopper)) = self.running.take() else { return };
        stderr::redirect(None);
        drop(stopper);
        let _ = thread.join();
        queue.push(&[], usize::MAX);
        let deadline = Instant::now() + FLUSH;
        while queue.waiting.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            thread::sleep(AGAIN);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What waits to be written.
struct Queue {
    sender: Sender<Vec<u8>>,
    /// How many bytes wait.
    waiting: Arc<AtomicUsize>,
    /// How many lines found no room since the last that did.
    dropped: AtomicUsize,
}

impl Queue {
    /// Has `lines` wait, unless more than `max` bytes would wait then. Returns whether they do.
    fn push(&self, lines: &[u8], max: usize) -> bool {
        if self.waiting.load(Ordering::Relaxed) + lines.len() > max {
            return false;
        }
        let notice = match self.dropped.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            1 => "1 line was dropped: it was not read in time\n".to_owned(),
            count => format!("{count} lines were dropped: they were not read in time\n"),
        };
        let part = [notice.as_bytes(), lines].concat();
        self.waiting.fetch_add(part.len(), Ordering::Relaxed);
        self.sender.send(part).is_ok()
    }
}

/// Reads what the daemon writes until `stop` is closed, and what it has written by then.
fn read(mut daemon: PipeReader, stop: &PipeReader, queue: &Queue, last: &Mutex<VecDeque<String>>) {
    let mut bytes = [0; 4096];
    let mut line = Vec::new();
    let mut pushed = Instant::now();
    let mut end_line = |line: &mut Vec<u8>| {
        if let Ok(mut last) = last.lock() {
            remember(&mut last, line);
        }
        while !queue.push(line, DAEMON_MAX) {
            if pushed.elapsed() >= PATIENCE {
                queue.dropped.fetch_add(1, Ordering::Relaxed);
                return line.clear();
            }
            thread::sleep(AGAIN);
        }
        pushed = Instant::now();
        line.clear();
    };
    let mut rest = PIPE;
    while rest > 0 {
        let mut polled =
            [daemon.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut polled, PollTimeout::NONE);
        let [has_input, stops] = polled.map(|polled| polled.any() == Some(true));
        let count = if has_input { daemon.read(&mut bytes).unwrap_or(0) } else { 0 };
        if count == 0 && (has_input || stops) {
            break;
        }
        if stops {
            rest = rest.saturating_sub(count);
        }
        for part in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            line.extend(part);
            if line.ends_with(b"\n") || line.len() >= LINE_PART {
                end_line(&mut line);
            }
        }
    }
    if !line.is_empty() {
        end_line(&mut line);
    }
}

/// Writes `part`, however long that takes. Without a reader it is lost.
fn write(mut target: &File, mut part: &[u8]) {
    while !part.is_empty() {
        match target.write(part) {
            Ok(count @ 1..) => part = &part[count..],
            // Another program may have made it non-blocking.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                thread::sleep(AGAIN);
            }
            _ => return,
        }
    }
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
        let target = target.try_clone().expect("a target");
        (Log::begin(reader, target).expect("a log").0, writer)
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
    fn a_reader_gets_every_line_also_of_a_flood() {
        for (reader, writer) in [pipe(), sockets()] {
            let (mut log, mut daemon) = begin(&writer);
            drop(writer);
            let said = lines(100_000);
            let all = thread::spawn(|| read_all(reader));
            daemon.write_all(said.as_bytes()).expect("write");
            log.stop();
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
            let (queue, ..) = log.running.as_ref().expect("it runs");
            assert!(queue.push(&b"ours\n".repeat(OWN), OWN_MAX));
            let begin = Instant::now();
            log.stop();
            assert!(begin.elapsed() < FLUSH * 2, "{:?}", begin.elapsed());
            let last = log.last();
            assert_eq!(last.len(), LINES);
            assert_eq!(last.last().map(String::as_str), Some("line 199999"));
            drop(log);
            let got = read_all(reader);
            let is_daemons = |line: &&str| line.starts_with("line ");
            let of_daemon: Vec<_> = got.lines().filter(is_daemons).collect();
            assert!(lines(DAEMON).starts_with(&of_daemon.join("\n")), "in order, without a gap");
            assert_eq!(got.lines().filter(|line| *line == "ours").count(), OWN);
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
        log.stop();
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
        let (daemons, mut daemon) = io::pipe().expect("a pipe");
        let begin = |daemons: PipeReader| {
            Log::begin(daemons, writer.try_clone().expect("a target")).expect("a log").0
        };
        let mut log = begin(daemons.try_clone().expect("a copy"));
        daemon.write_all(b"one\ntw").expect("write");
        log.stop();
        assert_eq!(log.last(), ["one", "tw"]);
        daemon.write_all(b"o\nthree\n").expect("write");
        let mut log = begin(daemons);
        drop((daemon, writer));
        log.stop();
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
        log.stop();
        assert_eq!(log.last().last().map(String::as_str), Some("line 049999"));
    }
}
