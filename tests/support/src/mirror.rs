//! A server on loopback that serves files from memory, with ranges, and does what is wrong on demand.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What is wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status instead of the file.
    Status(u16),
    /// A redirect to this address.
    Redirect(String),
    /// The connection ends behind so many bytes of the body.
    Cut(usize),
    /// Nothing comes any more behind so many bytes of the body, until the client goes.
    Stall(usize),
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
}

#[derive(Default)]
struct Shared {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    faults: BTreeMap<String, (Fault, usize)>,
    requests: Vec<Request>,
    gate: Option<(Sender<()>, Receiver<()>)>,
}

/// The server, which ends with the value.
pub struct Mirror {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl Mirror {
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Mutex<Shared>>::default();
        let server = Arc::downgrade(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let Some(shared) = server.upgrade() else {
                    return;
                };
                thread::spawn(move || serve(connection, &shared));
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.with(|shared| shared.files.insert(path.to_owned(), Arc::new(bytes.into())));
    }

    pub fn remove(&self, path: &str) {
        self.with(|shared| shared.files.remove(path));
    }

    /// Has the next `times` answers for `path` go wrong.
    pub fn fail(&self, path: &str, fault: Fault, times: usize) {
        self.with(|shared| shared.faults.insert(path.to_owned(), (fault, times)));
    }

    /// What was asked for since the last call.
    pub fn requests(&self) -> Vec<Request> {
        self.with(|shared| std::mem::take(&mut shared.requests))
    }

    /// Has the next answer wait. The first end tells when the request is here, the second lets the answer go when it is
    /// dropped.
    pub fn gate(&self) -> (Receiver<()>, Sender<()>) {
        let (arrived, arrival) = channel();
        let (go, wait) = channel();
        self.with(|shared| shared.gate = Some((arrived, wait)));
        (arrival, go)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.shared.lock().expect("the server's state"))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // The server looks whether it is still wanted at each connection.
        self.shared = Arc::default();
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(connection: TcpStream, shared: &Mutex<Shared>) {
    let _ = connection.set_read_timeout(Some(Duration::from_secs(60)));
    let Ok(reader) = connection.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(reader);
    while let Some(request) = read_request(&mut reader) {
        let (file, fault, gate) = {
            let mut shared = shared.lock().expect("the server's state");
            shared.requests.push(request.clone());
            let fault = match shared.faults.get_mut(&request.path) {
                Some((fault, times)) if *times > 0 => {
                    *times -= 1;
                    Some(fault.clone())
                }
                _ => None,
            };
            (shared.files.get(&request.path).cloned(), fault, shared.gate.take())
        };
        if let Some((arrived, wait)) = gate {
            let _ = arrived.send(());
            let _ = wait.recv();
        }
        if answer(&connection, &request, file, fault, &mut reader).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut range = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Some(Request { path, range });
        };
        if name.eq_ignore_ascii_case("range") {
            range = Some(value.trim().to_owned());
        }
    }
}

/// Answers one request; an error ends the connection.
fn answer(
    mut connection: &TcpStream,
    request: &Request,
    file: Option<Arc<Vec<u8>>>,
    fault: Option<Fault>,
    reader: &mut impl BufRead,
) -> io::Result<()> {
    let nothing =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n\r\n");
    match (&fault, file) {
        (Some(Fault::Status(status)), _) => {
            connection.write_all(nothing(&format!("{status} Odd"), "").as_bytes())
        }
        (Some(Fault::Redirect(to)), _) => {
            connection.write_all(nothing("302 Found", &format!("Location: {to}\r\n")).as_bytes())
        }
        (_, None) => connection.write_all(nothing("404 Not Found", "").as_bytes()),
        (fault, Some(file)) => {
            let start = request.range.as_deref().and_then(|range| {
                range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
            });
            let total = file.len();
            if start.is_some_and(|start| start >= total) {
                return connection.write_all(nothing("416 Range Not Satisfiable", "").as_bytes());
            }
            let body = &file[start.unwrap_or(0)..];
            let (status, range) = match start {
                Some(start) => (
                    "206 Partial Content",
                    format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1),
                ),
                None => ("200 OK", String::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\n{range}ETag: \"{total}\"\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            connection.write_all(head.as_bytes())?;
            match fault {
                Some(Fault::Cut(bytes)) => {
                    connection.write_all(&body[..body.len().min(*bytes)])?;
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
                Some(Fault::Stall(bytes)) => {
                    connection.write_all(&body[..body.len().min(*bytes)])?;
                    // Ends when the client closes its end.
                    reader.read_line(&mut String::new())?;
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
                _ => connection.write_all(body),
            }
        }
    }
}
