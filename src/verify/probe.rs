//! What our program does in the containers of `verify`: it looks, and prints what it finds as one
//! line of JSON. It needs nothing that a container has but the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How much is sent to measure a way, in bytes.
pub const TRAFFIC: usize = 64 << 20;

/// The path of our program in the image.
pub const PROGRAM: &str = "/verify";

/// The path of the word that only one image has.
pub const WORD: &str = "/word";

/// A question that a container answers, as its arguments say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Tells [`Facts`].
    Look,
    /// Prints the word of the image.
    Say,
    /// Writes a file that belongs to this user of the container.
    Write(String, u32),
    /// Uses memory until it is killed.
    Fill,
    /// Tells who connects to this TCP port and sends to this UDP port, and echoes.
    Listen(u16),
    /// Connects to each of these, and tells what came of it.
    Reach(Vec<String>),
    /// Sends to and reads from this address, and tells the rates.
    Measure(String),
    /// Asks the daemon at this socket.
    Ask(String),
    /// Does nothing until it is stopped.
    Wait,
}

/// What a container sees of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The lines of `/proc/self/uid_map`, each as inside, outside, count.
    pub uid_map: Vec<(u64, u64, u64)>,
    /// The mode of seccomp: 2 is a filter.
    pub seccomp: String,
    pub no_new_privs: bool,
    /// The most open files, soft and hard.
    pub open_files: (u64, u64),
    /// The MTU of each network device.
    pub mtu: BTreeMap<String, u32>,
    /// Why a new user namespace is refused.
    pub nested_user_namespace: Option<String>,
    /// Why a file of a lower layer is not written, renamed and removed.
    pub overlay: Option<String>,
    /// Why an echo request to our own loopback device is not answered.
    pub ping: Option<String>,
    pub resolvers: Vec<String>,
    /// The limits of our cgroup, by file name.
    pub limits: BTreeMap<String, String>,
    /// The file system at `/`.
    pub root: String,
}

/// A line of a container that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address that the client seems to have.
    pub source: IpAddr,
}

/// The rates of a way in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub out: f64,
    pub back: f64,
}

impl Task {
    /// Writes it as arguments.
    pub fn words(&self) -> Vec<String> {
        let word = |name: &str, rest: &[String]| {
            std::iter::once(name.to_owned()).chain(rest.iter().cloned()).collect()
        };
        match self {
            Self::Look => word("look", &[]),
            Self::Say => word("say", &[]),
            Self::Write(path, uid) => word("write", &[path.clone(), uid.to_string()]),
            Self::Fill => word("fill", &[]),
            Self::Listen(port) => word("listen", &[port.to_string()]),
            Self::Reach(addresses) => word("reach", addresses),
            Self::Measure(address) => word("measure", std::slice::from_ref(address)),
            Self::Ask(socket) => word("ask", std::slice::from_ref(socket)),
            Self::Wait => word("wait", &[]),
        }
    }

    /// Reads its arguments.
    pub fn parse(words: &[String]) -> Option<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Some(match words[..] {
            ["look"] => Self::Look,
            ["say"] => Self::Say,
            ["write", path, uid] => Self::Write(path.to_owned(), uid.parse().ok()?),
            ["fill"] => Self::Fill,
            ["listen", port] => Self::Listen(port.parse().ok()?),
            ["reach", ref addresses @ ..] => {
                Self::Reach(addresses.iter().map(|address| (*address).to_owned()).collect())
            }
            ["measure", address] => Self::Measure(address.to_owned()),
            ["ask", socket] => Self::Ask(socket.to_owned()),
            ["wait"] => Self::Wait,
            _ => return None,
        })
    }
}

/// Does what the arguments say.
pub fn run(words: &[String]) -> Result<Exit, Error> {
    let usage = || Error::new(Exit::Usage, "this command is for the containers of `verify`");
    let failed = |error: io::Error| Error::new(Exit::Failed, "the probe fails").because(&error);
    let task = Task::parse(words).ok_or_else(usage)?;
    perform(&task).map_err(failed)?;
    Ok(Exit::Good)
}

fn perform(task: &Task) -> io::Result<()> {
    match task {
        Task::Look => tell(&look()),
        Task::Say => tell(&fs::read_to_string(WORD)?),
        Task::Write(path, uid) => {
            fs::write(path, "verify\n")?;
            std::os::unix::fs::chown(path, Some(*uid), Some(*uid))
        }
        Task::Fill => fill(),
        Task::Listen(port) => listen(*port),
        Task::Reach(addresses) => {
            let reached = |address: &String| (address.clone(), reach(address));
            tell(&addresses.iter().map(reached).collect::<BTreeMap<_, _>>())
        }
        Task::Measure(address) => tell(&measure(address)?),
        Task::Ask(socket) => tell(&ask(socket).map_or_else(|error| error.to_string(), |text| text)),
        Task::Wait => loop {
            std::thread::park();
        },
    }
}

fn tell(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush())
}

fn look() -> Facts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let row = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    let why = |result: io::Result<()>| result.err().map(|error| error.to_string());
    let resolv = read("/etc/resolv.conf");
    let mounts = read("/proc/self/mountinfo");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let root = root.and_then(|line| line.split(" - ").nth(1)?.split(' ').next());
    Facts {
        uid_map: read("/proc/self/uid_map").lines().filter_map(row).collect(),
        seccomp: field("Seccomp:"),
        no_new_privs: field("NoNewPrivs:") == "1",
        open_files: getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default(),
        mtu: mtus(),
        nested_user_namespace: why(
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(io::Error::from)
        ),
        overlay: why(change_lower_file()),
        ping: why(ping()),
        resolvers: resolv
            .lines()
            .filter_map(|line| line.strip_prefix("nameserver "))
            .map(|address| address.trim().to_owned())
            .collect(),
        limits: limits(),
        root: root.unwrap_or_default().to_owned(),
    }
}

fn mtus() -> BTreeMap<String, u32> {
    let devices = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mtu = |device: fs::DirEntry| {
        let text = fs::read_to_string(device.path().join("mtu")).ok()?;
        Some((device.file_name().into_string().ok()?, text.trim().parse().ok()?))
    };
    devices.filter_map(mtu).collect()
}

/// Reads the limits that are set for this container: cgroup v2 has them all in one place, v1 in
/// one for each controller.
fn limits() -> BTreeMap<String, String> {
    let paths = [
        "memory.max",
        "cpu.max",
        "pids.max",
        "memory/memory.limit_in_bytes",
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "pids/pids.max",
    ];
    let read = |path: &str| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok()?;
        Some((path.to_owned(), text.trim().to_owned()))
    };
    paths.into_iter().filter_map(read).collect()
}

/// Changes, renames and removes the file that the image has for it.
fn change_lower_file() -> io::Result<()> {
    fs::OpenOptions::new().append(true).open("/lower/file")?.write_all(b"more\n")?;
    fs::rename("/lower/file", "/lower/renamed")?;
    fs::remove_file("/lower/renamed")
}

/// Sends an echo request to our own loopback address, by the socket that ping(8) uses without
/// privileges, else by a raw one.
fn ping() -> io::Result<()> {
    let open = |kind| socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
    let fd = open(SockType::Datagram).or_else(|_| open(SockType::Raw))?;
    // std's UDP socket is any socket that sends to and receives from addresses.
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(PATIENCE))?;
    // Type 8, code 0, checksum, identifier 0, sequence 0.
    socket.send_to(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0], ("127.0.0.1", 0))?;
    socket.recv(&mut [0; 64])?;
    Ok(())
}

/// Takes memory, page by page, and never gives it back.
fn fill() -> io::Result<()> {
    let mut taken = Vec::new();
    // Far more than the limit, and an end where there is none.
    for _ in 0..256 {
        taken.push(vec![1_u8; 1 << 20]);
    }
    tell(&taken.len())
}

/// Tells who comes, over both protocols, and echoes what they say.
fn listen(port: u16) -> io::Result<()> {
    let any = |port| SocketAddr::from(([0_u16; 8], port));
    let four = |port| SocketAddr::from(([0_u8; 4], port));
    let tcp = TcpListener::bind(any(port)).or_else(|_| TcpListener::bind(four(port)))?;
    let udp = UdpSocket::bind(any(port)).or_else(|_| UdpSocket::bind(four(port)))?;
    tell(&"ready")?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = udp.recv_from(&mut buffer) {
            let _ = tell(&seen("udp", from));
            let _ = udp.send_to(&buffer[..count], from);
        }
    });
    for stream in tcp.incoming() {
        let Ok(mut stream) = stream else { continue };
        let Ok(from) = stream.peer_addr() else { continue };
        tell(&seen("tcp", from))?;
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).unwrap_or(0);
        let _ = stream.write_all(&buffer[..count]);
    }
    Ok(())
}

fn seen(protocol: &str, from: SocketAddr) -> Seen {
    Seen { protocol: protocol.to_owned(), source: from.ip().to_canonical() }
}

/// Connects to `HOST:PORT`, and returns why that fails.
fn reach(address: &str) -> Option<String> {
    connect(address).err().map(|error| error.to_string())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends [`TRAFFIC`] bytes to a peer that answers with one, and then reads as many.
fn measure(address: &str) -> io::Result<Rates> {
    let rate = |began: Instant| TRAFFIC as f64 / began.elapsed().as_secs_f64();
    let block = vec![0; 256 << 10];
    let mut stream = connect(address)?;
    let began = Instant::now();
    for _ in 0..TRAFFIC / block.len() {
        stream.write_all(&block)?;
    }
    stream.read_exact(&mut [0])?;
    let out = rate(began);
    let began = Instant::now();
    stream.write_all(b"?")?;
    io::copy(&mut stream.take(TRAFFIC as u64), &mut io::sink())?;
    Ok(Rates { out, back: rate(began) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_read_as_it_is_written() {
        let tasks = [
            Task::Look,
            Task::Say,
            Task::Write("/v/file".into(), 1000),
            Task::Fill,
            Task::Listen(80),
            Task::Reach(vec!["a:1".into(), "b:2".into()]),
            Task::Measure("a:1".into()),
            Task::Ask("/var/run/docker.sock".into()),
            Task::Wait,
        ];
        for task in tasks {
            assert_eq!(Task::parse(&task.words()).as_ref(), Some(&task));
        }
        assert_eq!(Task::parse(&["listen".into(), "x".into()]), None);
        assert_eq!(Task::parse(&[]), None);
    }
}
