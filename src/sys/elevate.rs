//! How a user runs something as root: with sudo(8) where it is installed, else with su(1).

use std::ffi::OsStr;

use crate::words;

/// Returns whether `search_path` has a sudo(8).
pub fn has_sudo(search_path: &OsStr) -> bool {
    which::which_in("sudo", Some(search_path), "/").is_ok()
}

/// Returns the line that runs `command` as root.
pub fn line(has_sudo: bool, command: &str) -> String {
    if has_sudo {
        return format!("sudo {command}");
    }
    format!("su root -c {}", words::quote(command.as_ref()).to_string_lossy())
}

/// Returns the beginning of a line that runs a here-document as root. su asks for the password on
/// standard input, which the script must leave alone. It may keep the user's PATH, which need not
/// have root's programs.
pub fn here_document(has_sudo: bool) -> &'static str {
    if has_sudo {
        return "sudo sh -eux <<";
    }
    "su root -c 'PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH sh -eux <&3' 3<<"
}
