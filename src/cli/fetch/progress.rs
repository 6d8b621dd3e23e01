//! How far the downloads are, for who waits at a terminal.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::cli::fetch::source::Plan;
use crate::fetch::download::Progress;

/// How often it is shown.
const TICK: Duration = Duration::from_millis(100);

/// One line on the terminal until the channel closes; then it is gone.
pub fn show(stopped: mpsc::Receiver<()>, progress: &[Progress; 2], plan: &Plan) {
    let mut stderr = io::stderr();
    while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let bars = progress.iter().zip(&plan.archives).map(|(progress, archive)| {
            let done = progress.done.load(Ordering::Relaxed);
            let total = progress.total.load(Ordering::Relaxed);
            bar(archive.package.name(), done, total)
        });
        let line = bars.collect::<Vec<_>>().join("  ");
        // Nobody may be looking; that is no reason to stop.
        let _ = write!(stderr, "\r\x1b[K{line}");
    }
    let _ = write!(stderr, "\r\x1b[K");
}

/// `docker [#####-----] 43/87 MB`
fn bar(name: &str, done: u64, total: u64) -> String {
    const WIDTH: u64 = 16;
    let megabytes = |bytes: u64| bytes / 1_000_000;
    if total == 0 {
        return format!("{name} {} MB", megabytes(done));
    }
    let full = (done.min(total) * WIDTH).checked_div(total).unwrap_or(0);
    let full = usize::try_from(full).unwrap_or(0);
    let rest = "-".repeat(WIDTH as usize - full);
    format!("{name} [{}{rest}] {}/{} MB", "#".repeat(full), megabytes(done), megabytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_and_never_overflows() {
        assert_eq!(bar("a", 0, 0), "a 0 MB");
        assert_eq!(bar("a", 1_000_000, 2_000_000), "a [########--------] 1/2 MB");
        assert_eq!(bar("a", 9_000_000, 2_000_000), "a [################] 9/2 MB");
    }
}
