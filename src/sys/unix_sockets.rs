//! The kernel's table of unix sockets, `/proc/net/unix` (proc_pid_net(5)), and the sockets that a
//! process holds.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{UnixAddr, getsockname, getsockopt};

/// The flag of a socket at which somebody listens (`__SO_ACCEPTCON`).
const LISTENS: &[u8] = b"00010000";

/// The state of a connection that was accepted (`SS_CONNECTED`).
const CONNECTED: &[u8] = b"03";

/// The references to an accepted connection whose peer is gone: the kernel's table and its owner. A
/// peer that is there holds one more.
const WITHOUT_PEER: u32 = 2;

/// The table as it is now.
///
/// # Errors
/// What the system says.
pub fn table() -> io::Result<Vec<u8>> {
    fs::read("/proc/net/unix")
}

/// Whether somebody listens at `path`.
pub fn listens(table: &[u8], path: &Path) -> bool {
    rows(table, path).any(|fields| fields[3] == LISTENS)
}

/// How many clients are connected to the socket at `path`. One that has gone does not count, though
/// the server may keep its end: dockerd 20.10 does so for minutes after an attached `docker run`.
pub fn connections(table: &[u8], path: &Path) -> usize {
    let references = |text| u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    rows(table, path)
        .filter(|fields| fields[5] == CONNECTED)
        .filter(|fields| references(fields[1]).is_none_or(|count| count > WITHOUT_PEER))
        .count()
}

/// What `/proc/PID/fd` calls the sockets that listen at `path`.
pub fn listeners(table: &[u8], path: &Path) -> Vec<PathBuf> {
    rows(table, path)
        .filter(|fields| fields[3] == LISTENS)
        .map(|fields| format!("socket:[{}]", String::from_utf8_lossy(fields[6])).into())
        .collect()
}

/// The descriptors of the process `pid`, and what `/proc/PID/fd` says they are. None of a process
/// that is gone.
pub fn descriptors(pid: u32) -> impl Iterator<Item = (RawFd, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries.into_iter().flatten().flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?))
    })
}

/// How many clients that are still there the process `pid`, which `process` is a descriptor of, has
/// accepted at `path`. It finds those whom the table does not show: an accepted socket belongs to
/// the network namespace of the client. Kernels before 5.6 and `kernel.yama.ptrace_scope=3` allow
/// no such look, and then the count is 0.
pub fn accepted(pid: u32, process: &OwnedFd, path: &Path) -> usize {
    descriptors(pid)
        .filter(|(_, what)| what.as_os_str().as_bytes().starts_with(b"socket:"))
        .filter_map(|(number, _)| copy_of(process, number).ok())
        .filter(|socket| serves_at(socket, path) && !has(socket, PollFlags::POLLHUP))
        .count()
}

/// Whether somebody waits to be accepted by one of the descriptors `listeners` of `process`.
pub fn has_waiting(process: &OwnedFd, listeners: &[RawFd]) -> bool {
    listeners
        .iter()
        .filter_map(|number| copy_of(process, *number).ok())
        .any(|listener| has(&listener, PollFlags::POLLIN))
}

/// A copy of the descriptor `number` of another process (pidfd_getfd(2)).
///
/// # Errors
/// What the kernel says.
pub fn copy_of(process: &OwnedFd, number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the descriptor is new, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether it is a server's end of a connection to `path`.
fn serves_at(socket: &OwnedFd, path: &Path) -> bool {
    let address = getsockname::<UnixAddr>(socket.as_raw_fd());
    address.is_ok_and(|address| address.path() == Some(path))
        && getsockopt(socket, AcceptConn) == Ok(false)
}

/// What poll(2) says of a socket now.
fn has(socket: &OwnedFd, event: PollFlags) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), event)];
    let _ = poll(&mut polled, PollTimeout::ZERO);
    polled[0].revents().is_some_and(|events| events.contains(event))
}

/// The fields of the rows for `path`: `Num RefCount Protocol Flags Type St Inode`. Short inodes are
/// padded with blanks, and a path may hold some.
fn rows<'t>(table: &'t [u8], path: &'t Path) -> impl Iterator<Item = [&'t [u8]; 7]> {
    table.split(|byte| *byte == b'\n').filter_map(move |line| {
        let mut rest = line;
        let mut fields: [&[u8]; 7] = [b""; 7];
        for field in &mut fields {
            let blank = |byte: &u8| *byte == b' ';
            rest = &rest[rest.iter().position(|byte| !blank(byte))?..];
            let end = rest.iter().position(blank)?;
            (*field, rest) = rest.split_at(end);
        }
        let named = Path::new(OsStr::from_bytes(&rest[1..]));
        (named == path).then_some(fields)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::net::{UnixListener, UnixStream};

    const TABLE: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 23456 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     2 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 02     3 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     4 /run/user/1/docker.sock2\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     5\n\
        0000000000000000: 00000003 00000000 00000000 0001 03 67890 /run/user/1/docker.sock\n\
        0000000000000000: 00000002 00000000 00000000 0001 03 67891 /run/user/1/docker.sock\n\
        0000000000000000: 0000000A 00000000 00000000 0001 03 67892 /run/user/1/docker.sock\n\
        0000000000000000: 00000002 00000000 00010000 0001 01     7 /a b/\xff\n";

    #[test]
    fn who_is_connected_is_counted_by_path_and_state_and_peer() {
        let path = Path::new("/run/user/1/docker.sock");
        assert_eq!(connections(TABLE, path), 3);
        assert_eq!(connections(b"", Path::new("/x")), 0);
        assert_eq!(listeners(TABLE, path), [Path::new("socket:[23456]")]);
    }

    /// Both looks agree at each step of a connection.
    #[test]
    fn a_client_counts_from_the_moment_it_is_accepted_until_it_has_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("listen");
        let own = std::process::id();
        let number = nix::unistd::Pid::this().as_raw();
        // SAFETY: the call takes numbers and touches no memory.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        let process = i32::try_from(Errno::result(process).expect("pidfd_open(2)")).expect("small");
        // SAFETY: the descriptor is new, and nobody else owns it.
        let process = unsafe { OwnedFd::from_raw_fd(process) };
        let expect = |count: usize, when: &str| {
            assert_eq!(accepted(own, &process, &path), count, "{when}");
            let table = table().expect("the table");
            assert_eq!(connections(&table, &path), count, "{when}");
            let sockets = listeners(&table, &path);
            let held = descriptors(own).filter(|(_, what)| sockets.contains(what));
            assert_eq!(held.count(), 1, "{when}");
        };
        let waits = || has_waiting(&process, &[listener.as_raw_fd()]);
        expect(0, "nobody");
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
    fn who_listens_is_found_whatever_the_inode_and_the_path_look_like() {
        let odd = Path::new(OsStr::from_bytes(b"/a b/\xff"));
        for path in [Path::new("/run/user/1/docker.sock"), odd] {
            assert!(listens(TABLE, path), "{}", path.display());
        }
        assert!(!listens(TABLE, Path::new("/run/user/1/docker.sock2")));
        assert!(!listens(TABLE, Path::new("")));
    }
}
