//! What the daemon writes goes where our own messages go, and the last of it is remembered.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::sync::{Arc, Mutex};
use std::thread;

/// How many lines are remembered, and how much of each.
const LINES: usize = 20;
const LINE_MAX: usize = 500;

/// The last lines.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    /// Begins to pass on what is written to the returned pipe. A thread does it: whoever reads our
    /// messages may be slow, and nothing else must wait for that.
    ///
    /// # Errors
    /// What the system says.
    pub fn start() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let log = Self::default();
        let lines = log.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || lines.pass_on(reader))?;
        Ok((log, writer))
    }

    fn pass_on(&self, reader: PipeReader) {
        let mut reader = BufReader::with_capacity(4096, reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line without an end is passed on in parts.
            let mut part = io::Read::take(&mut reader, 64 * 1024);
            match part.read_until(b'\n', &mut line) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            // Where nobody listens any more, the last lines still count.
            let _ = io::stderr().write_all(&line);
            self.remember(&line);
        }
    }

    /// Remembers a line. Of a panic the calls count, and not the files behind tabs that they are in:
    /// else the main function is all that is left of it.
    fn remember(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text: String = text.trim_end().chars().take(LINE_MAX).collect();
        if text.is_empty() || text.starts_with('\t') {
            return;
        }
        if let Ok(mut lines) = self.0.lock() {
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(text);
        }
    }

    /// The last lines so far.
    pub fn last(&self) -> Vec<String> {
        self.0
            .lock()
            .map(|lines| lines.iter().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_panic_the_reason_and_all_calls_are_remembered() {
        let log = Log::default();
        log.remember(b"level=info msg=\"Loading containers\"\n");
        log.remember(b"panic: index out of range\n");
        log.remember(b"\n");
        for call in 1..LINES {
            log.remember(format!("call{call}()\n").as_bytes());
            log.remember(format!("\t/src/file.go:{call} +0x5d\n").as_bytes());
        }
        let last = log.last();
        assert_eq!(last.len(), LINES);
        assert_eq!(last[0], "panic: index out of range");
        assert_eq!(last[1], "call1()");
    }
}
