//! Unix sockets: how to reach them, which the kernel lists (proc_pid_net(5)), and which a process
//! serves.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{AcceptConn, PeerCredentials};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, getsockname, getsockopt, recvmsg, sendmsg, socket,
};
use nix::sys::stat::Mode;

/// Connects to the socket at `path`, whatever its length, and does not wait: where too many wait
/// for the listener already, the error is EAGAIN.
pub fn connect(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match UnixAddr::new(path) {
        // A path that is good inside may be too long with `/proc/PID/root` in front of it.
        Err(Errno::ENAMETOOLONG) => {
            let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            let link = format!("/proc/self/fd/{}", found.as_raw_fd());
            socket::connect(fd.as_raw_fd(), &UnixAddr::new(link.as_str())?)?;
        }
        address => socket::connect(fd.as_raw_fd(), &address?)?,
    }
    Ok(fd)
}

/// Reads the kernel's table of unix sockets.
pub fn table() -> io::Result<Vec<u8>> {
    fs::read("/proc/net/unix")
}

/// Says whether a process listens at `path`. A row is `Num RefCount Protocol Flags Type St Inode
/// Path`.
pub fn listens(table: &[u8], path: &Path) -> bool {
    let is_listener = |row: &[u8]| {
        let fields = row.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let fields: Vec<&[u8]> = fields.collect();
        // `__SO_ACCEPTCON`.
        fields.len() == 7 && fields[3] == b"00010000"
    };
    let path = path.as_os_str().as_bytes();
    let mut rows = table.split(|byte| *byte == b'\n').filter_map(|row| row.strip_suffix(path));
    rows.any(is_listener)
}

/// Counts the clients that are still there and that the process `pid`, of which `process` is a
/// pidfd, has accepted at `path`. One that has gone does not count, though the server may keep its
/// end: dockerd 20.10 does so for minutes after an attached `docker run`. `None` where we may not
/// look: kernels before 5.6, and `kernel.yama.ptrace_scope=3`. Connections that the processes
/// `except` have made do not count.
pub fn accepted(pid: u32, process: &OwnedFd, path: &Path, except: &[u32]) -> Option<usize> {
    let mut count = 0;
    for_each(pid, process, |socket| {
        if serves_at(socket, path) && !has(socket, PollFlags::POLLHUP) {
            count += usize::from(!except.contains(&client(socket)));
        }
    })?;
    Some(count)
}

/// Copies the sockets at which that process listens; `None` where we may not look.
pub fn listeners(pid: u32, process: &OwnedFd) -> Option<Vec<OwnedFd>> {
    let mut copies = Vec::new();
    for_each(pid, process, |socket| {
        if getsockopt(socket, AcceptConn) == Ok(true) {
            copies.push(socket.try_clone().ok());
        }
    })?;
    copies.into_iter().collect()
}

/// Hands a copy of each socket of a process to `look`.
fn for_each(pid: u32, process: &OwnedFd, mut look: impl FnMut(&OwnedFd)) -> Option<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let what = fs::read_link(entry.path()).unwrap_or_default();
        if !what.as_os_str().as_bytes().starts_with(b"socket:") {
            continue;
        }
        let number = entry.file_name().to_str()?.parse().ok()?;
        match copy_of(process, number) {
            Ok(socket) => look(&socket),
            // It may be closed meanwhile.
            Err(Errno::EBADF) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// Says whether a client waits to be accepted by one of `listeners`.
pub fn has_waiting(listeners: &[OwnedFd]) -> bool {
    listeners.iter().any(|listener| has(listener, PollFlags::POLLIN))
}

/// Copies the descriptor `number` of another process (pidfd_getfd(2)).
fn copy_of(process: &OwnedFd, number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Hands a descriptor over to the process at the other end of `socket`.
pub fn send_descriptor(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let sent = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&sent)];
    let (fd, byte) = (socket.as_raw_fd(), [IoSlice::new(b".")]);
    sendmsg::<UnixAddr>(fd, &byte, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// Takes a descriptor from the process at the other end; `None` if that end is closed.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut space) = ([0], nix::cmsg_space!(RawFd));
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    let descriptor = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel made the descriptor for us, and there is room for one only.
    Ok(descriptor.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Says whether it is a server's end of a connection to `path`.
fn serves_at(socket: &OwnedFd, path: &Path) -> bool {
    let address = getsockname::<UnixAddr>(socket.as_raw_fd());
    address.is_ok_and(|address| address.path() == Some(path))
        && getsockopt(socket, AcceptConn) == Ok(false)
}

/// Returns the PID of the process that made the connection, 0 if that is unknown.
fn client(socket: &OwnedFd) -> u32 {
    let credentials = getsockopt(socket, PeerCredentials);
    credentials.map_or(0, |client| client.pid().unsigned_abs())
}

/// Says whether poll(2) reports `event` of a socket now.
fn has(socket: &OwnedFd, event: PollFlags) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), event)];
    let _ = poll(&mut polled, PollTimeout::ZERO);
    polled[0].revents().is_some_and(|events| events.contains(event))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::sys::processes;
    use std::net::Shutdown;
    use std::os::unix::net::{UnixListener, UnixStream};

    const TABLE: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 23456 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     2 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     4 /run/user/1/docker.sock2\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     5\n\
        0000000000000000: 00000002 00000000 00010000 0001 01     7 /a b/\xff\n";

    #[test]
    fn a_client_counts_from_the_moment_it_is_accepted_until_it_has_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("listen");
        let own = std::process::id();
        let process = processes::read(own).expect("this process").identity;
        let process = processes::open(process).expect("a pidfd");
        let expect = |count: usize, when: &str| {
            assert_eq!(accepted(own, &process, &path, &[]), Some(count), "{when}");
            assert_eq!(accepted(own, &process, &path, &[own]), Some(0), "{when}, by us");
        };
        let listeners = [OwnedFd::from(listener.try_clone().expect("a copy"))];
        let waits = || has_waiting(&listeners);
        let own_ones = super::listeners(own, &process).expect("we may look");
        let is_own = |one: &OwnedFd| {
            getsockname::<UnixAddr>(one.as_raw_fd()).is_ok_and(|at| at.path() == Some(&path))
        };
        assert!(own_ones.iter().any(is_own));
        expect(0, "no client");
        assert!(!waits());
        let client = UnixStream::connect(&path).expect("connect");
        expect(0, "connected, not accepted");
        assert!(waits());
        let served = listener.accept().expect("accept");
        assert!(!waits());
        expect(1, "accepted");
        client.shutdown(Shutdown::Write).expect("shut down");
        expect(1, "the client only listens, as `docker run` without input");
        drop(client);
        expect(0, "the client is gone, and the server does not know");
        drop(served);
        expect(0, "all over");
    }

    #[test]
    fn a_socket_is_reached_however_long_its_path_is() {
        let root = tempfile::tempdir().expect("a directory");
        for length in [1, 60, 107, 200] {
            let name = "s".repeat(50);
            let short = root.path().join(&name);
            let listener = UnixListener::bind(&short).expect("a socket");
            listener.set_nonblocking(true).expect("a flag");
            let directory = root.path().join("d".repeat(length));
            fs::create_dir(&directory).expect("a directory");
            let path = directory.join(&name);
            fs::rename(short, &path).expect("a longer name");
            let _connected = connect(&path).expect("it listens");
            listener.accept().expect("it was connected");
            drop(listener);
            assert_eq!(connect(&path).err(), Some(Errno::ECONNREFUSED));
            assert_eq!(connect(&directory.join("missing")).err(), Some(Errno::ENOENT));
        }
    }

    #[test]
    fn who_listens_is_found_whatever_the_inode_and_the_path_look_like() {
        let odd = Path::new(OsStr::from_bytes(b"/a b/\xff"));
        for path in [Path::new("/run/user/1/docker.sock"), odd] {
            assert!(listens(TABLE, path), "{}", path.display());
        }
        assert!(!listens(TABLE, Path::new("/run/user/1/docker.sock2")));
        assert!(!listens(TABLE, Path::new("")));
    }
}
