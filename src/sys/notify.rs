//! The socket on which the processes in the namespaces tell what they are, and that they are ready
//! (sd_notify(3)).

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt,
    sockopt::PassCred,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tracing::debug;

use crate::sys::{files, wait};

/// What the keeper tells, and what becomes containerd or dockerd.
pub const KEEPER: &str = "X_DOCKERD_ROOTLESS_KEEPER=1";
pub const ENGINE: &str = "X_DOCKERD_ROOTLESS_CONTAINERD=1";
pub const DAEMON: &str = "X_DOCKERD_ROOTLESS_DAEMON=1";

/// The longest message that counts.
const MESSAGE_MAX: usize = 4096;

/// The receiving end.
pub struct Receiver(UnixDatagram);

/// A message, and the process that sent it, as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub pid: u32,
    /// The assignments, a line each.
    pub text: String,
}

impl Message {
    /// Says whether the daemon is ready.
    pub fn is_ready(&self) -> bool {
        self.text.lines().any(|line| line == "READY=1")
    }
}

impl Receiver {
    /// Binds the socket, in the place of one that is there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        files::if_there(fs::remove_file(path))?;
        let socket = UnixDatagram::bind(path)?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self(socket))
    }

    /// Waits for the next message. One that does not say whose it is counts for nothing, and no
    /// other failure ends it.
    pub async fn next(&self) -> io::Result<Message> {
        loop {
            self.0.readable().await?;
            match self.0.try_io(Interest::READABLE, || self.receive()) {
                Ok(Some(message)) => return Ok(message),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    debug!("cannot receive a message: {error}");
                    wait::sleep(wait::MOMENT).await;
                }
                _ => {}
            }
        }
    }

    fn receive(&self) -> io::Result<Option<Message>> {
        let mut buffer = [0; MESSAGE_MAX];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!(UnixCredentials);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let fd = self.0.as_raw_fd();
        let received = recvmsg::<UnixAddr>(fd, &mut slices, Some(&mut control), flags)?;
        // Descriptors that come with it have no room here: the kernel closes them, and says that
        // something is missing.
        let mut messages = received.cmsgs().ok().into_iter().flatten();
        let pid = messages.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(sender) => u32::try_from(sender.pid()).ok(),
            _ => None,
        });
        let length = received.bytes;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(pid.map(|pid| Message { pid, text }))
    }
}

/// Tells the supervisor, at its socket `path`, `what` this process is.
pub fn announce(path: &OsStr, what: &str) -> io::Result<()> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.send_to(what.as_bytes(), Path::new(path)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Write};
    use std::time::Duration;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    #[test]
    fn descriptors_with_a_message_are_closed_and_the_next_one_arrives() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let receiver = Receiver::bind(&path).expect("a socket");
            for count in [1, 2, 253] {
                let (mut reader, mut writer) = io::pipe().expect("a pipe");
                writer.write_all(b"x").expect("there is room");
                sendmsg(
                    socket.as_raw_fd(),
                    &[IoSlice::new(b"FDSTORE=1")],
                    &[ControlMessage::ScmRights(&vec![writer.as_raw_fd(); count])],
                    MsgFlags::empty(),
                    Some(&UnixAddr::new(&path).expect("a short path")),
                )
                .expect("sent");
                drop(writer);
                socket.send_to(b"READY=1", &path).expect("sent");
                let next = tokio::time::timeout(Duration::from_secs(60), receiver.next());
                let message = next.await.expect("it arrives").expect("a message");
                assert!(message.is_ready(), "{count}: {message:?}");
                assert_eq!(message.pid, std::process::id());
                // It would wait for ever for a writer that is still open.
                let mut text = Vec::new();
                reader.read_to_end(&mut text).expect("a pipe");
                assert_eq!(text, b"x");
            }
        });
    }
}
