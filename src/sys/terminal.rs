//! The terminal behind standard output.

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;

use nix::libc;

/// Returns its width in columns, 80 if that is unknown; `None` if it is no terminal.
pub fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the kernel writes a `winsize` at most, which is all zeros until then.
    let size = unsafe {
        libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr());
        size.assume_init()
    };
    Some(if size.ws_col > 0 { size.ws_col.into() } else { 80 })
}
