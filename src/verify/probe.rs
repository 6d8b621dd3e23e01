//! What our program does in the containers of `verify`: it looks, and prints what it finds as one
//! line of JSON. It needs nothing that a container has but the kernel.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit};
use crate::facts::parse_id_map;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How much is sent to measure a way, in bytes, and for how long at most.
const TRAFFIC: usize = 64 << 20;
const MEASURED: Duration = Duration::from_secs(4);

/// The words of the command line that are a container's.
pub const PROBE: &str = "verify-probe";

/// The path of our program in the image.
pub const PROGRAM: &str = "/verify";

/// The path of the word that only one image has.
pub const WORD: &str = "/word";

/// What a container says when it listens.
pub const READY: &str = "\"ready\"";

/// Where the volume is, and the users of a container that write into it.
pub const VOLUME: &str = "/volume";
pub const WRITERS: [u32; 2] = [0, 1000];

/// A network device and its MTU.
pub type Device = (String, u32);

/// What a container sees of itself.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    /// The lines of `/proc/self/uid_map`, each as inside, outside, count.
    pub uid_map: Vec<(u64, u64, u64)>,
    /// The mode of seccomp: 2 is a filter.
    pub seccomp: String,
    /// The most open files, soft and hard.
    pub open_files: (u64, u64),
    /// The device of the default route.
    pub device: Option<Device>,
    /// Why no file is written into the volume.
    pub volume: Option<String>,
    /// Why a file of a lower layer cannot be changed, renamed and removed.
    pub overlay: Option<String>,
    /// The file system of the root directory.
    pub root: String,
    /// The limits of our cgroup, by file name. Only version 2 limits containers of rootless Docker.
    pub limits: BTreeMap<String, String>,
}

/// What came of an attempt to reach something: what answered, or why nothing did.
pub type Reached = Result<String, String>;

/// Does what the arguments say.
pub fn run(words: &[OsString]) -> Result<Exit, Error> {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let done = match words[..] {
        ["look"] => tell(&look()),
        ["say"] => fs::read_to_string(WORD).and_then(|word| tell(&word)),
        ["fill"] => fill(),
        ["listen", port] => listen(port),
        ["reach", ref targets @ ..] => tell(&reach(targets)),
        ["measure", address] => tell(&measure(address).map_err(|error| plain(&error))),
        ["ask", socket] => tell(&ask(socket).unwrap_or_else(|error| plain(&error))),
        ["wait"] => loop {
            thread::park();
        },
        _ => {
            let what = "this command is for the containers of `verify`";
            return Err(Error::new(Exit::Usage, what));
        }
    };
    let failed = |error: io::Error| Error::new(Exit::Failed, "the probe fails").because(&error);
    done.map(|()| Exit::Good).map_err(failed)
}

fn tell(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush())
}

/// Writes an error without its number.
pub fn plain(error: &impl Display) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn look() -> Facts {
    let (status, mounts) = (read("/proc/self/status"), read("/proc/self/mountinfo"));
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let root = root.and_then(|line| line.split(" - ").nth(1)?.split(' ').next());
    let limit = |file: &str| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?;
        Some((file.to_owned(), text.trim().to_owned()))
    };
    Facts {
        uid_map: parse_id_map(&read("/proc/self/uid_map")),
        seccomp: seccomp.unwrap_or_default().trim().to_owned(),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default(),
        device: device(),
        volume: fill_volume().err().map(|error| plain(&error)),
        overlay: change_lower_file().err().map(|error| plain(&error)),
        root: root.unwrap_or_default().to_owned(),
        limits: ["cpu.max", "pids.max"].into_iter().filter_map(limit).collect(),
    }
}

fn device() -> Option<Device> {
    let routes = read("/proc/net/route");
    let mut routes = routes.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let name = routes.find(|words| words.get(1) == Some(&"00000000"))?[0].to_owned();
    let mtu = read(&format!("/sys/class/net/{name}/mtu")).trim().parse().ok()?;
    Some((name, mtu))
}

/// Changes, renames and removes the file that the image has for it.
fn change_lower_file() -> io::Result<()> {
    fs::OpenOptions::new().append(true).open("/lower/file")?.write_all(b"more\n")?;
    fs::rename("/lower/file", "/lower/renamed")?;
    fs::remove_file("/lower/renamed")
}

/// Writes a file for each of [`WRITERS`].
fn fill_volume() -> io::Result<()> {
    WRITERS.into_iter().try_for_each(|uid| {
        let path = format!("{VOLUME}/{uid}");
        fs::write(&path, "verify\n")?;
        chown(&path, Some(uid), Some(uid))
    })
}

/// Takes far more memory than the limit, and ends where there is none.
fn fill() -> io::Result<()> {
    let taken: Vec<_> = (0..256).map(|_| vec![1_u8; 1 << 20]).collect();
    tell(&taken.len())
}

/// Tells each client, over both protocols, which address it has.
fn listen(port: &str) -> io::Result<()> {
    let port = port.parse().map_err(io::Error::other)?;
    let (six, four) = (SocketAddr::from(([0_u16; 8], port)), SocketAddr::from(([0_u8; 4], port)));
    let tcp = TcpListener::bind(six).or_else(|_| TcpListener::bind(four))?;
    let udp = UdpSocket::bind(six).or_else(|_| UdpSocket::bind(four))?;
    tell(&"ready")?;
    let seen = |from: SocketAddr| from.ip().to_canonical().to_string();
    thread::spawn(move || {
        while let Ok((_, from)) = udp.recv_from(&mut [0; 64]) {
            let _ = udp.send_to(seen(from).as_bytes(), from);
        }
    });
    for mut stream in tcp.incoming().flatten() {
        let Ok(from) = stream.peer_addr() else { continue };
        let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(seen(from).as_bytes()));
    }
    Ok(())
}

/// Tries all of `tcp:HOST:PORT`, `ping:ADDRESS` and `dns:` at the same time.
pub fn reach(targets: &[&str]) -> Vec<Reached> {
    let attempt = |target: &str| match target.split_once(':') {
        Some(("tcp", address)) => connect(address).and_then(|stream| stream.peer_addr()),
        Some(("ping", address)) => ping(address),
        _ => ask_name_server(),
    };
    thread::scope(|scope| {
        let tried: Vec<_> = targets.iter().map(|target| scope.spawn(|| attempt(target))).collect();
        let joined = tried.into_iter().map(|thread| {
            let reached = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            reached.map(|from| from.ip().to_string()).map_err(|error| plain(&error))
        });
        joined.collect()
    })
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let none = Err(io::Error::other("the name has no address"));
    let stream = address.to_socket_addrs()?.fold(none, |found, address| {
        let connect = |_| TcpStream::connect_timeout(&address, PATIENCE);
        found.or_else(connect).map_err(|error| at(&address.ip(), &error))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Adds the place to an error.
fn at(place: &impl Display, error: &io::Error) -> io::Error {
    io::Error::other(format!("{place}: {}", plain(error)))
}

/// Sends an echo request, by the socket that ping(8) uses without privileges, else by a raw one.
fn ping(address: &str) -> io::Result<SocketAddr> {
    let open = |kind| socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
    // Only what comes by a raw socket has a header of IP before it.
    let (fd, header) = match open(SockType::Datagram) {
        Ok(fd) => (fd, 0),
        Err(_) => (open(SockType::Raw)?, 20),
    };
    // std's UDP socket is any socket that sends to and receives from addresses.
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(PATIENCE))?;
    // Type 8, code 0, checksum, identifier 0, sequence 0.
    socket.send_to(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0], (address, 0))?;
    let mut answer = [0; 128];
    let (_, from) = socket.recv_from(&mut answer)?;
    match answer[header] {
        0 => Ok(from),
        kind => Err(io::Error::other(format!("ICMP message {kind} comes from {}", from.ip()))),
    }
}

/// Asks the configured name servers for those of the root zone, and returns the one that answers.
fn ask_name_server() -> io::Result<SocketAddr> {
    let none = Err(io::Error::other("/etc/resolv.conf names no server"));
    let configuration = read("/etc/resolv.conf");
    let servers = configuration.lines().filter_map(|line| line.strip_prefix("nameserver "));
    servers.map(str::trim).fold(none, |found, server| {
        found.or_else(|_| query(server).map_err(|error| at(&server, &error)))
    })
}

fn query(server: &str) -> io::Result<SocketAddr> {
    /// An identifier, a recursive query, one question: the root's name servers in the Internet.
    const QUERY: &[u8] = b"\x76\x65\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";
    let socket = UdpSocket::bind(if server.contains(':') { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.set_read_timeout(Some(PATIENCE / 2))?;
    socket.connect((server, 53))?;
    socket.send(QUERY)?;
    let mut answer = [0; 512];
    socket.recv(&mut answer)?;
    match answer[3] & 15 {
        0 => socket.peer_addr(),
        code => Err(io::Error::other(format!("it answers with error {code}"))),
    }
}

/// Sends to a peer that measures, then receives from it, and returns that rate in MB/s.
fn measure(address: &str) -> io::Result<f64> {
    send(connect(address)?)?;
    receive(connect(address)?)
}

/// Sends [`TRAFFIC`] bytes, or until the receiver has enough.
pub fn send(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let block = vec![0; 256 << 10];
    for _ in 0..TRAFFIC / block.len() {
        // The receiver says whether enough has come.
        if stream.write_all(&block).is_err() {
            break;
        }
    }
    Ok(())
}

/// Receives all or for a while, whichever is less, and returns the rate in MB/s.
pub fn receive(mut stream: TcpStream) -> io::Result<f64> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (began, mut count, mut block) = (Instant::now(), 0, vec![0; 256 << 10]);
    while count < TRAFFIC && began.elapsed() < MEASURED {
        match stream.read(&mut block)? {
            0 => break,
            more => count += more,
        }
    }
    match count {
        0 => Err(io::Error::other("nothing arrives")),
        _ => Ok(count as f64 / 1e6 / began.elapsed().as_secs_f64()),
    }
}

/// Asks the daemon at `socket` whether it is there.
fn ask(socket: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
