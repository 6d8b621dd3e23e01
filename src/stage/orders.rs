//! What the supervisor and the keeper say to each other over their connection: JSON, a line each.

use std::ffi::OsString;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::plan::Engine;

/// What the supervisor asks of the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Start containerd, unless it runs.
    Engine(Engine),
    /// Start dockerd, when containerd takes connections.
    Daemon {
        /// The path of dockerd's own pid file. It is removed if it names a dockerd that has ended.
        pid_file: OsString,
        /// Its program and its arguments.
        command: Vec<OsString>,
    },
    /// End containerd, and end.
    End,
}

/// What the keeper tells the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// containerd takes connections, or has not done so in its time.
    EngineUp,
    /// A sibling has ended, with this code, or with 128 and the number of its signal.
    Ended(Sibling, u8),
}

/// A process that the keeper starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sibling {
    Engine,
    Daemon,
}

/// Renders an order or a report as it is sent.
pub fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Puts lines together from the pieces that arrive.
#[derive(Debug, Default)]
pub struct Inbox(Vec<u8>);

impl Inbox {
    pub fn fill(&mut self, piece: &[u8]) {
        self.0.extend(piece);
    }

    /// Returns the next message, if it has arrived whole. A line that cannot be read is passed over.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.0.drain(..=end).collect();
            if let Ok(message) = serde_json::from_slice(&line) {
                return Some(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use proptest::prelude::*;

    fn any_word() -> impl Strategy<Value = OsString> {
        proptest::collection::vec(1u8..=255, 0..30).prop_map(OsString::from_vec)
    }

    proptest! {
        #[test]
        fn lines_arrive_as_they_were_sent_in_pieces_of_any_size(
            pid_file in any_word(),
            config in any::<String>(),
            command in proptest::collection::vec(any_word(), 1..6),
            size in 1usize..40,
        ) {
            let (config_file, socket) = ("/config".into(), "/socket".into());
            let sent = [
                Order::Daemon { pid_file, command: command.clone() },
                Order::Engine(Engine { command, config_file, config, socket }),
                Order::End,
            ];
            let bytes: Vec<u8> = sent.iter().flat_map(|sent| line(sent).unwrap()).collect();
            let mut inbox = Inbox::default();
            let mut arrived = Vec::new();
            for piece in bytes.chunks(size) {
                inbox.fill(piece);
                arrived.extend(std::iter::from_fn(|| inbox.receive::<Order>()));
            }
            prop_assert_eq!(arrived, sent);
        }
    }

    #[test]
    fn reports_arrive_and_unknown_lines_are_passed_over() {
        let mut inbox = Inbox::default();
        inbox.fill(b"\"Newer\"\n{\n");
        let sent = [
            Report::EngineUp,
            Report::Ended(Sibling::Engine, 0),
            Report::Ended(Sibling::Daemon, 137),
        ];
        for sent in sent {
            inbox.fill(&line(&sent).expect("JSON"));
        }
        let arrived: Vec<Report> = std::iter::from_fn(|| inbox.receive()).collect();
        assert_eq!(arrived, sent);
    }
}
