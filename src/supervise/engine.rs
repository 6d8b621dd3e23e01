//! Asks containerd itself whether it is there: dockerd's API says little of it. The question is for
//! its version, in gRPC over HTTP/2; any answer to it will do.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::supervise::progress;
use crate::supervise::progress::Silence;
use crate::sys::tree::Identity;

/// The method that tells containerd's version.
const METHOD: &str = "/containerd.services.version.v1.Version/Version";

/// Frames of HTTP/2 (RFC 9113): their types, and the flags that end headers and a stream.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The stream of the only request.
const STREAM: u32 = 1;

/// Asks containerd, the process `engine`, at `socket` as it sees it, until it answers. `tell` hears
/// what it does instead every [`progress::LOOK`].
pub async fn await_answer(engine: Identity, socket: &Path, tell: impl Fn(Silence)) {
    let mut watch = progress::Watch::new(engine);
    while !matches!(timeout(progress::LOOK, ask(engine.pid, socket)).await, Ok(Ok(()))) {
        tell(watch.look());
        crate::supervise::quiet::sleep(crate::supervise::ASK_AGAIN).await;
    }
}

async fn ask(pid: u32, socket: &Path) -> io::Result<()> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let inside = directory.strip_prefix("/").unwrap_or(directory);
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    // By a descriptor, for the path of a socket must be short.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(&root.join(inside), flags, Mode::empty())?;
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    let mut stream = UnixStream::connect(path.join(name)).await?;
    stream.write_all(&request()).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, _, _, stream_id @ ..] = head;
        if u32::from_be_bytes(stream_id) == STREAM {
            return Ok(());
        }
        let length = u64::from(u32::from_be_bytes([0, a, b, c]));
        tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
    }
}

/// The whole request: the preface, settings, headers without any compression, and an empty message.
fn request() -> Vec<u8> {
    // A name of HPACK's static table by its number, or one that is spelt out.
    let mut headers = vec![0x83, 0x86];
    headers.extend(field(&[0x04], METHOD));
    headers.extend(field(&[0x01], "localhost"));
    headers.extend(field(&[0x0f, 0x10], "application/grpc"));
    headers.extend(field(b"\x00\x02te", "trailers"));
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, STREAM, &headers),
        frame(DATA, END_STREAM, STREAM, &[0; 5]),
    ]
    .concat()
}

fn field(name: &[u8], value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap_or_default();
    [name, &[length], value.as_bytes()].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
