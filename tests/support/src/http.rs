//! Just enough HTTP/1.0 to ask a daemon or a container one question.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// `GET path` over a unix socket, as the docker CLI talks to the daemon.
pub fn get_unix(socket: &Path, path: &str) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    get(stream, path)
}

/// `GET path` over TCP, as a user of a published port does.
pub fn get_tcp(address: SocketAddr, path: &str) -> io::Result<Response> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    get(stream, path)
}

/// Whether a daemon says that it is there.
pub fn ping(socket: &Path) -> bool {
    get_unix(socket, "/_ping").is_ok_and(|response| response.status == 200)
}

fn get(mut stream: impl Read + Write, path: &str) -> io::Result<Response> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}
