//! What the supervisor and the keeper say to each other over their connection: frames of a length
//! (four bytes, little endian) and fields that end in NUL, the first of which is the frame's name.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::plan::Engine;

/// The longest frame in bytes: the kernel takes two megabytes of arguments.
const FRAME_MAX: usize = 4 * 1024 * 1024;

/// What the supervisor asks of the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start containerd, unless it runs.
    Engine(Engine),
    /// Start dockerd, when containerd takes connections.
    Daemon {
        /// dockerd's own pid file. One that names a dockerd that has ended goes.
        pid_file: PathBuf,
        /// Its program and its words.
        command: Vec<OsString>,
    },
    /// End containerd, and end.
    End,
}

/// What the keeper tells the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// containerd takes connections, or has not done so in its time.
    EngineUp,
    /// containerd or dockerd has ended, with this code, or with 128 and the number of its signal.
    Ended(Sibling, u8),
}

/// A process that the keeper starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sibling {
    /// containerd.
    Engine,
    /// dockerd.
    Daemon,
}

impl Order {
    fn fields(&self) -> Vec<OsString> {
        match self {
            Self::Engine(engine) => ["engine".into()]
                .into_iter()
                .chain([
                    engine.config_file.clone().into(),
                    engine.config.clone().into(),
                    engine.socket.clone().into(),
                ])
                .chain(engine.command.iter().cloned())
                .collect(),
            Self::Daemon { pid_file, command } => ["daemon".into(), pid_file.clone().into()]
                .into_iter()
                .chain(command.iter().cloned())
                .collect(),
            Self::End => vec!["end".into()],
        }
    }

    fn parse(fields: &[OsString]) -> Option<Self> {
        let (name, fields) = fields.split_first()?;
        match (name.to_str()?, fields) {
            ("engine", [config_file, config, socket, command @ ..]) if !command.is_empty() => {
                Some(Self::Engine(Engine {
                    command: command.to_vec(),
                    config_file: config_file.into(),
                    config: config.to_str()?.to_owned(),
                    socket: socket.into(),
                }))
            }
            ("daemon", [pid_file, command @ ..]) if !command.is_empty() => {
                Some(Self::Daemon { pid_file: pid_file.into(), command: command.to_vec() })
            }
            ("end", []) => Some(Self::End),
            _ => None,
        }
    }
}

impl Report {
    fn fields(self) -> Vec<OsString> {
        match self {
            Self::EngineUp => vec!["engine-up".into()],
            Self::Ended(sibling, code) => {
                let name = match sibling {
                    Sibling::Engine => "engine-ended",
                    Sibling::Daemon => "daemon-ended",
                };
                vec![name.into(), code.to_string().into()]
            }
        }
    }

    fn parse(fields: &[OsString]) -> Option<Self> {
        let words: Vec<&str> = fields.iter().filter_map(|field| field.to_str()).collect();
        match words[..] {
            ["engine-up"] => Some(Self::EngineUp),
            ["engine-ended", code] => Some(Self::Ended(Sibling::Engine, code.parse().ok()?)),
            ["daemon-ended", code] => Some(Self::Ended(Sibling::Daemon, code.parse().ok()?)),
            _ => None,
        }
    }
}

fn frame(fields: &[OsString]) -> io::Result<Vec<u8>> {
    let body: usize = fields.iter().map(|field| field.len() + 1).sum();
    let length = u32::try_from(body).ok().filter(|_| body <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::E2BIG))?;
    let mut bytes = length.to_le_bytes().to_vec();
    for field in fields {
        bytes.extend(field.as_bytes());
        bytes.push(0);
    }
    Ok(bytes)
}

/// The frame of an order.
///
/// # Errors
/// E2BIG if it is longer than a frame may be.
pub fn order(order: &Order) -> io::Result<Vec<u8>> {
    frame(&order.fields())
}

/// Sends a report.
///
/// # Errors
/// What the system says.
pub fn report(mut to: impl Write, report: Report) -> io::Result<()> {
    to.write_all(&frame(&report.fields())?)
}

/// Puts frames together from what arrives.
#[derive(Debug, Default)]
pub struct Inbox(Vec<u8>);

impl Inbox {
    /// Takes what `from` has, at most a piece of it; `false` is its end.
    ///
    /// # Errors
    /// What the system says.
    pub fn fill(&mut self, mut from: impl Read) -> io::Result<bool> {
        let mut piece = [0; 4096];
        let count = from.read(&mut piece)?;
        self.0.extend(&piece[..count]);
        Ok(count > 0)
    }

    /// The next order, if it has arrived whole. One that is not understood is passed over.
    pub fn order(&mut self) -> Option<Order> {
        self.next(Order::parse)
    }

    /// The same for a report.
    pub fn report(&mut self) -> Option<Report> {
        self.next(Report::parse)
    }

    fn next<T>(&mut self, parse: impl Fn(&[OsString]) -> Option<T>) -> Option<T> {
        loop {
            let (length, rest) = self.0.split_first_chunk()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let body = rest.get(..length)?;
            let body = body.strip_suffix(b"\0").unwrap_or(body);
            let fields = body.split(|byte| *byte == 0);
            let fields: Vec<OsString> = fields
                .map(|field| OsString::from_vec(OsStr::from_bytes(field).as_bytes().to_vec()))
                .collect();
            self.0.drain(..length + 4);
            if let Some(parsed) = parse(&fields) {
                return Some(parsed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_word() -> impl Strategy<Value = OsString> {
        proptest::collection::vec(1u8..=255, 0..30).prop_map(OsString::from_vec)
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_sent_in_pieces_of_any_size(
            pid_file in any_word(),
            config in "[^\0]{0,50}",
            command in proptest::collection::vec(any_word(), 1..6),
            size in 1usize..40,
        ) {
            let sent = [
                Order::Daemon { pid_file: pid_file.clone().into(), command: command.clone() },
                Order::Engine(Engine {
                    command,
                    config_file: pid_file.clone().into(),
                    config,
                    socket: pid_file.into(),
                }),
                Order::End,
            ];
            let bytes: Vec<u8> = sent.iter().flat_map(|sent| order(sent).unwrap()).collect();
            let mut inbox = Inbox::default();
            let mut arrived = Vec::new();
            for piece in bytes.chunks(size) {
                inbox.fill(piece).unwrap();
                arrived.extend(std::iter::from_fn(|| inbox.order()));
            }
            prop_assert_eq!(arrived, sent);
        }

        #[test]
        fn whatever_arrives_is_no_panic(bytes in any::<Vec<u8>>()) {
            let mut inbox = Inbox::default();
            inbox.fill(&bytes[..]).unwrap();
            while inbox.report().is_some() {}
        }
    }

    #[test]
    fn reports_arrive_and_what_nobody_understands_is_passed_over() {
        let mut bytes = frame(&["newer".into()]).expect("a frame");
        let sent = [
            Report::EngineUp,
            Report::Ended(Sibling::Engine, 0),
            Report::Ended(Sibling::Daemon, 137),
        ];
        for sent in sent {
            report(&mut bytes, sent).expect("a frame");
        }
        let mut inbox = Inbox::default();
        inbox.fill(&bytes[..]).expect("bytes");
        let arrived: Vec<_> = std::iter::from_fn(|| inbox.report()).collect();
        assert_eq!(arrived, sent);
    }
}
