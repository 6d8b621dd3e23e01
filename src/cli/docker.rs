//! Questions to dockerd's API, each with a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sys::unix_sockets;

/// How long dockerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that an answer may hold, in bytes.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// Asks the daemon at `socket` for `path`, such as `/info`.
pub fn ask(socket: &Path, path: &str) -> io::Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = UnixStream::from(unix_sockets::connect(socket)?);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > ANSWER_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
    }
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.ok_or(io::ErrorKind::UnexpectedEof)? + 4);
    match head.split(|byte| *byte == b' ').nth(1) {
        Some(b"200") => Ok(serde_json::from_slice(body)?),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
