//! Decides what outlives dockerd: a containerd that is ours and not dockerd's child, and the
//! containers, which dockerd's live-restore leaves alone when dockerd ends.
//!
//! live-restore is on in a configuration file of ours, which repeats the user's: an orderly stop
//! turns it off at run time, and a flag could not be turned off.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::error::{Error, Exit, Warning};
use crate::facts::HostFacts;
use crate::plan::Reason;
use crate::plan::flags::DockerdWords;
use crate::settings::{Settings, Switch};

/// The key of dockerd's configuration, and its flag.
const LIVE_RESTORE: &str = "live-restore";

/// The flags of dockerd that have it tell something and end.
const TELLS: [&str; 3] = ["help", "version", "validate"];

/// What outlives dockerd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Whether dockerd leaves its containers alone when it ends.
    pub live_restore: bool,
    /// Our configuration file for dockerd; `None` leaves dockerd with the user's.
    pub config: Option<PathBuf>,
    /// The containerd that stays; `None` leaves dockerd with another one.
    pub engine: Option<Engine>,
}

/// A containerd of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The program and its words.
    pub command: Vec<OsString>,
    /// Its configuration file.
    pub config_file: PathBuf,
    /// What that file holds.
    pub config: String,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Keep {
    /// Decides, for a daemon with these `words` of its user. `config` is where our configuration file
    /// for dockerd would be.
    ///
    /// # Errors
    /// Refuses containers that are to be kept by a member of a swarm (exit 78).
    pub fn decide(
        settings: &Settings,
        host: &HostFacts,
        user: DockerdWords<'_>,
        config: &Path,
    ) -> Result<(Self, Reason, Vec<Warning>), Error> {
        let json = &host.session.daemon_json.1;
        let stated = user.switch(LIVE_RESTORE).or_else(|| json.switch(LIVE_RESTORE));
        let is_foreign = user.long("containerd").is_some()
            || json.may_set("containerd")
            || json.switch("embedded-containerd") == Some(true);
        let only_tells = TELLS.iter().any(|name| user.long(name).is_some())
            || user.has_letter(b'v')
            || user.has_letter(b'h');
        let mut warnings = Vec::new();
        let asked = &settings.keep_containers;
        let (live_restore, why) = match asked.value {
            Switch::Off => (false, asked.origin.to_string()),
            _ if only_tells => (false, "dockerd is told to end at once".to_owned()),
            Switch::On if host.session.has_swarm => {
                return Err(Error::new(
                    Exit::Config,
                    "supervise.keep-containers is `true`, but the daemon is a member of a swarm, \
                     which does not go with live-restore",
                )
                .hint("dockerd-rootless config set supervise.keep-containers auto"));
            }
            Switch::On => {
                if stated == Some(false) {
                    warnings.push(Warning(
                        "supervise.keep-containers is `true`, and dockerd's own live-restore is \
                         stated to be false: containers are kept"
                            .to_owned(),
                    ));
                }
                (true, asked.origin.to_string())
            }
            Switch::Auto if stated == Some(false) => {
                (false, "live-restore is stated to be false".to_owned())
            }
            Switch::Auto if host.session.has_swarm => (
                false,
                "the daemon is a member of a swarm, which does not go with live-restore".to_owned(),
            ),
            Switch::Auto if is_foreign => {
                (false, "containerd is stated to be another's".to_owned())
            }
            Switch::Auto if host.tools.containerd.is_none() => {
                (false, "no containerd is in PATH".to_owned())
            }
            Switch::Auto => (true, "containers go on running while dockerd is replaced".to_owned()),
        };
        let is_read = json.is_read();
        let engine = match is_foreign || only_tells || !is_read {
            true => None,
            false => Engine::decide(host, user),
        };
        let live_restore = live_restore && is_read;
        let why = match is_read {
            true => why,
            false => "dockerd's configuration file cannot be read".to_owned(),
        };
        let has_config = live_restore || (stated == Some(true) && is_read);
        let keep = Self { live_restore, config: has_config.then(|| config.to_owned()), engine };
        let reason =
            Reason::new("supervise.keep-containers", OsStr::new(&live_restore.to_string()), why);
        Ok((keep, reason, warnings))
    }

    /// What dockerd is told of it.
    pub fn words(&self) -> Vec<OsString> {
        let word =
            |name: &str, path: &PathBuf| crate::plan::stage::assignment(name, path.as_os_str());
        let config = self.config.iter().map(|path| word("--config-file", path));
        let engine = self.engine.iter();
        config.chain(engine.map(|engine| word("--containerd", &engine.socket))).collect()
    }

    /// The user's words, but for those that say what our configuration file says.
    pub fn rest(&self, user: DockerdWords<'_>) -> Vec<OsString> {
        match self.config {
            Some(_) => user.without("config-file", &[LIVE_RESTORE]),
            None => user.0.to_vec(),
        }
    }
}

impl Engine {
    /// Decides as dockerd does for the containerd that it starts by itself (moby's
    /// `libcontainerd/supervisor`): the same directories, so that either finds what the other has
    /// left.
    fn decide(host: &HostFacts, user: DockerdWords<'_>) -> Option<Self> {
        let json = &host.session.daemon_json.1;
        let program = host.tools.containerd.clone()?;
        let directory = host.session.exec_root.join("containerd");
        let config_file = directory.join("containerd.toml");
        let socket = directory.join("containerd.sock");
        let text = |path: PathBuf| Some(toml::Value::String(path.to_str()?.to_owned()).to_string());
        let has_cri = user
            .switch("cri-containerd")
            .or_else(|| json.switch("cri-containerd"))
            .unwrap_or(false);
        let disabled = match has_cri {
            true => "",
            false => "\"io.containerd.grpc.v1.cri\"",
        };
        let config = format!(
            "version = 2\nroot = {root}\nstate = {state}\noom_score = 0\ndisabled_plugins = [{disabled}]\n\n\
             [grpc]\n  address = {socket}\n\n[ttrpc]\n  address = {ttrpc}\n",
            root = text(host.session.data_root.join("containerd/daemon"))?,
            state = text(directory.join("daemon"))?,
            socket = text(socket.clone())?,
            ttrpc = text(directory.join("containerd.sock.ttrpc"))?,
        );
        let is_debug = user.switch("debug").unwrap_or(user.has_letter(b'D'))
            || json.switch("debug") == Some(true);
        let level = match is_debug {
            true => OsString::from("debug"),
            false => user
                .value("log-level", Some(b'l'))
                .map(OsStr::to_owned)
                .or_else(|| json.text("log-level").map(OsString::from))
                .unwrap_or_else(|| "info".into()),
        };
        let words = ["--config".into(), config_file.clone().into_os_string()];
        let command = std::iter::once(program.into_os_string())
            .chain(words)
            .chain(["--log-level".into(), level])
            .collect();
        Some(Self { command, config_file, config, socket })
    }
}

/// Our configuration file for dockerd: the user's, byte for byte but for the order of its keys, with
/// `live_restore`.
///
/// # Errors
/// What is wrong with the user's.
pub fn effective_config(user: &str, live_restore: bool) -> Result<String, serde_json::Error> {
    let text = match user.trim_start_matches('\u{feff}').trim() {
        "" => "{}",
        text => text,
    };
    let mut keys: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)?;
    keys.insert(LIVE_RESTORE.to_owned(), to_raw_value(&live_restore)?);
    serde_json::to_string_pretty(&keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{DaemonJson, samples};
    use crate::settings::Layer;

    fn decide(
        setting: &str,
        json: &str,
        line: &str,
        change: impl FnOnce(&mut HostFacts),
    ) -> Result<(Keep, Reason), Error> {
        let assignment = format!("supervise.keep-containers={setting}").into();
        let layer = Layer::from_assignments(&[assignment]).expect("a setting");
        let settings = Settings::resolve(&[layer]).expect("settings");
        let mut host = samples::debian_12();
        host.session.daemon_json.1 = DaemonJson::parse(json);
        change(&mut host);
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let decided = Keep::decide(&settings, &host, DockerdWords(&words), Path::new("/ours.json"));
        decided.map(|(keep, reason, _)| (keep, reason))
    }

    #[test]
    fn containers_are_kept_unless_somebody_says_otherwise() {
        let nothing = |_: &mut HostFacts| {};
        let swarm = |host: &mut HostFacts| host.session.has_swarm = true;
        let bare = |host: &mut HostFacts| host.tools.containerd = None;
        type Change = fn(&mut HostFacts);
        // The setting, daemon.json, dockerd's words, the host; then live-restore, a configuration
        // file of ours, a containerd of ours.
        let cases: &[(&str, &str, &str, Change, [bool; 3])] = &[
            ("auto", "", "", nothing, [true, true, true]),
            ("auto", r#"{"debug": true}"#, "-D", nothing, [true, true, true]),
            ("auto", r#"{"live-restore": true}"#, "", nothing, [true, true, true]),
            ("auto", r#"{"live-restore": false}"#, "", nothing, [false, false, true]),
            ("auto", "", "--live-restore=false", nothing, [false, false, true]),
            ("auto", "", "--live-restore", nothing, [true, true, true]),
            ("auto", "", "", swarm, [false, false, true]),
            ("auto", "", "", bare, [false, false, false]),
            ("auto", "", "--containerd=/c.sock", nothing, [false, false, false]),
            ("auto", r#"{"containerd": "/c.sock"}"#, "", nothing, [false, false, false]),
            (
                "auto",
                r#"{"features": {"embedded-containerd": true}}"#,
                "",
                nothing,
                [false, false, false],
            ),
            ("auto", "{", "", nothing, [false, false, false]),
            ("auto", "", "--version", nothing, [false, false, false]),
            ("auto", "", "-v", nothing, [false, false, false]),
            ("true", r#"{"live-restore": false}"#, "", nothing, [true, true, true]),
            ("true", "", "--containerd=/c.sock", nothing, [true, true, false]),
            ("false", "", "", nothing, [false, false, true]),
            ("false", r#"{"live-restore": true}"#, "", nothing, [false, true, true]),
        ];
        for (setting, json, line, change, expected) in cases {
            let (keep, reason) = decide(setting, json, line, change).expect("decided");
            let got = [keep.live_restore, keep.config.is_some(), keep.engine.is_some()];
            assert_eq!(got, *expected, "{setting} {json} {line}: {}", reason.why);
        }
        let refused = decide("true", "", "", swarm).expect_err("a swarm");
        assert_eq!(refused.exit(), Exit::Config);
    }

    #[test]
    fn dockerd_is_told_once_and_its_users_other_words_stay() {
        let line = "--config-file /mine.json -D --live-restore --config-file=/b --data-root /d";
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let (keep, _) = decide("auto", "", line, |_| {}).expect("decided");
        assert_eq!(
            keep.words(),
            [
                "--config-file=/ours.json",
                "--containerd=/run/user/1000/docker/containerd/containerd.sock"
            ]
        );
        assert_eq!(keep.rest(DockerdWords(&words)), ["-D", "--data-root", "/d"]);
        let engine = keep.engine.expect("ours");
        assert_eq!(engine.command[3..], ["--log-level", "debug"]);
        let parsed: toml::Table = engine.config.parse().expect("TOML");
        assert_eq!(parsed["root"].as_str(), Some("/home/u/.local/share/docker/containerd/daemon"));
    }

    #[test]
    fn our_file_repeats_the_users() {
        for (user, on, expected) in [
            ("", true, r#"{"live-restore":true}"#),
            ("\u{feff} {}", false, r#"{"live-restore":false}"#),
            (
                r#"{"mtu": 1e3, "live-restore": false, "a": {"b": [1.50]}}"#,
                true,
                r#"{"a":{"b":[1.50]},"live-restore":true,"mtu":1e3}"#,
            ),
        ] {
            let text = effective_config(user, on).expect("an object");
            let short: String = text.split_whitespace().collect();
            assert_eq!(short, expected.replace(' ', ""), "{user}");
        }
        for wrong in ["{", "[]", "{\"mtu\": 1400,}"] {
            assert!(effective_config(wrong, true).is_err(), "{wrong}");
        }
    }
}
