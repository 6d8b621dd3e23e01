//! Makes network devices as dockerd does, by rtnetlink(7): one message, one answer.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `IFLA_INFO_KIND` of linux/if_link.h.
const IFLA_INFO_KIND: u16 = 1;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Makes a device called `name` of the kind `bridge` or `veth` in this network namespace; the
/// kernel loads its module if it has to, and makes up a peer for a veth.
pub fn add_device(name: &str, kind: &str) -> nix::Result<()> {
    let (route, flags) = (SockProtocol::NetlinkRoute, SockFlag::SOCK_CLOEXEC);
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
    // struct ifinfomsg, all zero: any family, type and index.
    let mut body = vec![0; 16];
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    attribute(&mut body, libc::IFLA_IFNAME, &text(name));
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, &text(kind));
    attribute(&mut body, libc::IFLA_LINKINFO, &info);

    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::EMSGSIZE)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(u16::try_from(flags).map_err(|_| Errno::EINVAL)?.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    // The answer is there when send returns: rtnetlink works synchronously.
    let mut answer = [0; 4096];
    let count = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    let error = answer[..count].get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw(-error)),
        None => Err(Errno::EBADMSG),
    }
}

/// Appends an attribute: length, type, value, and zeros up to a multiple of four.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
