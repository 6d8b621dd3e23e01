//! The kernel's table of unix sockets, `/proc/net/unix` (proc_pid_net(5)).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The flag of a socket at which somebody listens (`__SO_ACCEPTCON`).
const LISTENS: &[u8] = b"00010000";

/// The state of a connection that was accepted (`SS_CONNECTED`).
const CONNECTED: &[u8] = b"03";

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

/// How many are connected to the socket at `path`.
pub fn connections(table: &[u8], path: &Path) -> usize {
    rows(table, path)
        .filter(|fields| fields[5] == CONNECTED)
        .count()
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

    const TABLE: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 23456 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     2 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 02     3 /run/user/1/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     4 /run/user/1/docker.sock2\n\
        0000000000000000: 00000003 00000000 00000000 0001 03     5\n\
        0000000000000000: 00000003 00000000 00000000 0001 03 67890 /run/user/1/docker.sock\n\
        0000000000000000: 00000002 00000000 00010000 0001 01     7 /a b/\xff\n";

    #[test]
    fn who_is_connected_is_counted_by_path_and_state() {
        assert_eq!(connections(TABLE, Path::new("/run/user/1/docker.sock")), 2);
        assert_eq!(connections(b"", Path::new("/x")), 0);
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
