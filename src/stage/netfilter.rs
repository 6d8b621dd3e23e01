//! Asks the kernel whether it has the tables of iptables-legacy in this network namespace, by the
//! very socket options that `iptables-legacy` begins with. It costs microseconds, and lets the
//! kernel load its modules as a call of the program would.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::plan::Family;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` of linux/netfilter_ipv4/ip_tables.h and ip6_tables.h.
const GET_INFO: libc::c_int = 64;

/// `struct ipt_getinfo` and `struct ip6t_getinfo`, which are alike.
#[repr(C)]
struct TableInfo {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

/// `struct xt_get_revision` of linux/netfilter/x_tables.h.
#[repr(C)]
struct Revision {
    name: [u8; 29],
    revision: u8,
}

/// What dockerd's rules need beside the tables, and whether it is a target or a match; the
/// revisions are the ones that have been there for long.
const EXTENSIONS: [(&str, u8, bool); 4] =
    [("MASQUERADE", 0, true), ("DNAT", 0, true), ("addrtype", 0, false), ("conntrack", 1, false)];

/// Finds out whether the kernel has the legacy tables of `family`, and the extensions that
/// dockerd's rules use.
pub fn probe_legacy(family: Family) -> Result<(), String> {
    let (domain, level, match_option, target_option) = match family {
        Family::Ipv4 => (AddressFamily::Inet, libc::IPPROTO_IP, 66, 67),
        Family::Ipv6 => (AddressFamily::Inet6, libc::IPPROTO_IPV6, 68, 69),
    };
    let socket = socket(domain, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .map_err(|errno| format!("no raw socket: {}", errno.desc()))?;
    for table in ["filter", "nat"] {
        // SAFETY: all fields are integers, for which zero bytes are valid.
        let mut info: TableInfo = unsafe { std::mem::zeroed() };
        info.name[..table.len()].copy_from_slice(table.as_bytes());
        get_option(&socket, level, GET_INFO, &mut info)
            .map_err(|errno| format!("table `{table}`: {}", errno.desc()))?;
    }
    for (name, revision, is_target) in EXTENSIONS {
        let mut asked = Revision { name: [0; 29], revision };
        asked.name[..name.len()].copy_from_slice(name.as_bytes());
        let option = if is_target { target_option } else { match_option };
        match get_option(&socket, level, option, &mut asked) {
            // The kernel has the extension, in other revisions only.
            Ok(()) | Err(Errno::EPROTONOSUPPORT) => {}
            Err(errno) => return Err(format!("extension `{name}`: {}", errno.desc())),
        }
    }
    Ok(())
}

/// getsockopt(2) into a structure that the kernel reads and writes.
fn get_option<T>(socket: &OwnedFd, level: i32, option: i32, value: &mut T) -> nix::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    let (fd, value) = (socket.as_raw_fd(), std::ptr::from_mut(value).cast());
    // SAFETY: `value` is valid for `length` bytes of reads and writes, and both structures that
    // are used here consist of integers, for which every byte is valid.
    let result = unsafe { libc::getsockopt(fd, level, option, value, &mut length) };
    Errno::result(result).map(drop)
}
