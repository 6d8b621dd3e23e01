//! Faults, one after another: a daemon that runs a container, something that goes wrong, and what comes of it.
//!
//! Every test is a row of `docs/faults.md`, under the number that the fault has there. A row ends in the same way: the
//! cause was named, the daemon is back or has ended with the right code, a stop leaves nothing, and the next start runs
//! the container again. `make faults` plays all of them, puts upstream's script through the same, and writes the table.

mod died;
mod hung;
mod order;
mod parts;
mod places;
mod scene;
mod starts;
mod table;
mod words;

use table::{Row, Side};
use test_support::docker::PAGE;
use test_support::*;

/// Puts our launcher through a fault, and upstream's as well if there is a table to write. `ours` leaves no daemon behind.
fn play(
    number: u8,
    fault: &str,
    ours: fn(&TestUser) -> Side,
    upstream: Option<fn(&TestUser) -> Side>,
) {
    let user = TestUser::new();
    let ours = ours(&user);
    assert_nothing_left(&user);
    assert_next_start(&user);
    drop(user);
    if table::is_wanted() {
        let upstream = upstream.map(|upstream| upstream(&TestUser::new()));
        table::write(Row { number, fault: fault.to_owned(), ours, upstream });
    }
}

/// Fails unless the next start runs a container, and leaves nothing either.
fn assert_next_start(user: &TestUser) {
    let mut daemon = Launch::new(user, Launcher::Run).ready();
    if daemon.docker.run("images --quiet").is_empty() {
        daemon.docker.import_image();
    }
    assert_eq!(daemon.docker.container("cat /www/index.html"), PAGE);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(user);
}
