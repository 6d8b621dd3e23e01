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

use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::plan::Reason;
use crate::settings::{Choice, Settings, Sourced, assignment, flag_of};

/// The key of dockerd's configuration, and its flag.
const LIVE_RESTORE: &str = "live-restore";

/// The flags of dockerd that have it tell something and end.
const TELLS: [&str; 3] = ["help", "version", "validate"];

/// Why a swarm's member keeps no containers.
const SWARM: &str = "the daemon is a member of a swarm, which does not go with live-restore";

/// What outlives dockerd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Decides, and says why. `config` is where our configuration file for dockerd would be. Refuses to
    /// keep the containers of a member of a swarm, if that is asked for (exit 78).
    pub fn decide(
        settings: &Settings,
        host: &HostFacts,
        config: &Path,
    ) -> Result<(Self, Reason), Error> {
        const KEY: &str = "supervise.keep-containers";
        let (args, json) = (settings.args(), &host.session.daemon_json);
        let explicit = args.switch(LIVE_RESTORE).or_else(|| json.switch(LIVE_RESTORE));
        let is_foreign = args.has("containerd")
            || json.may_set("containerd")
            || json.switch("embedded-containerd") == Some(true);
        let only_tells = TELLS.iter().any(|name| args.has(name));
        let is_read = json.is_read();
        let Sourced { value: asked, origin } = &settings.keep_containers;
        let is_asked = *asked == Choice::Fixed(true);
        if is_asked && host.session.has_swarm && !only_tells {
            let what = format!("{KEY} is `true`, but {SWARM}");
            return Err(Error::new(Exit::Config, what).hint(origin.take_back(KEY, "auto")));
        }
        let why_not = if !is_read {
            Some("dockerd's configuration file cannot be read")
        } else if only_tells {
            Some("dockerd is told to end at once")
        } else if *asked != Choice::Auto {
            None
        } else if explicit == Some(false) {
            Some("live-restore is set to false")
        } else if host.session.has_swarm {
            Some(SWARM)
        } else if is_foreign {
            Some("dockerd is told to use another containerd")
        } else {
            host.tools.containerd.is_none().then_some("no containerd is in PATH")
        };
        let live_restore = why_not.is_none() && *asked != Choice::Fixed(false);
        let why = match (why_not, asked) {
            (Some(why), _) => why.to_owned(),
            (None, Choice::Auto) => "containers keep running while dockerd is replaced".to_owned(),
            (None, Choice::Fixed(_)) => origin.to_string(),
        };
        let has_config = live_restore || (explicit == Some(true) && is_read);
        let has_engine = !is_foreign && !only_tells && is_read;
        let keep = Self {
            live_restore,
            config: has_config.then(|| config.to_owned()),
            engine: has_engine.then(|| Engine::decide(settings, host)).flatten(),
        };
        Ok((keep, Reason::new(KEY, live_restore.to_string(), why)))
    }

    /// Returns what dockerd is told of it.
    pub fn args(&self) -> Vec<OsString> {
        let config = self.config.iter().map(|path| assignment("--config-file", path.as_os_str()));
        let engine = self.engine.iter();
        let engine = engine.map(|engine| assignment("--containerd", engine.socket.as_os_str()));
        config.chain(engine).collect()
    }
}

/// Returns dockerd's arguments without those that say what our configuration file says.
pub fn without_ours(args: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match flag_of(arg) {
            Some(("config-file", None)) => drop(args.next()),
            Some(("config-file" | LIVE_RESTORE, _)) => {}
            _ => kept.push(arg.clone()),
        }
    }
    kept
}

impl Engine {
    /// Decides as dockerd does for the containerd that it starts by itself (moby's
    /// `libcontainerd/supervisor`): the same directories, so that either finds what the other has
    /// left.
    fn decide(settings: &Settings, host: &HostFacts) -> Option<Self> {
        let (args, json, places) =
            (settings.args(), &host.session.daemon_json, &host.session.places);
        let program = host.tools.containerd.clone()?;
        let directory = places.containerd();
        let config_file = directory.join("containerd.toml");
        let socket = directory.join("containerd.sock");
        let text = |path: PathBuf| Some(toml::Value::String(path.to_str()?.to_owned()).to_string());
        let has_cri = args.switch("cri-containerd").or_else(|| json.switch("cri-containerd"));
        let disabled = if has_cri == Some(true) { "" } else { "\"io.containerd.grpc.v1.cri\"" };
        let config = format!(
            "version = 2\nroot = {root}\nstate = {state}\noom_score = 0\ndisabled_plugins = [{disabled}]\n\n\
             [grpc]\n  address = {socket}\n\n[ttrpc]\n  address = {ttrpc}\n",
            root = text(places.data_root.join("containerd/daemon"))?,
            state = text(directory.join("daemon"))?,
            socket = text(socket.clone())?,
            ttrpc = text(directory.join("containerd.sock.ttrpc"))?,
        );
        let is_debug = args.switch("debug") == Some(true) || json.switch("debug") == Some(true);
        let by_file = || json.text("log-level").map(OsString::from);
        let level = args.value("log-level").map(OsStr::to_owned).or_else(by_file);
        let level = if is_debug { "debug".into() } else { level.unwrap_or_else(|| "info".into()) };
        let command = vec![
            program.into_os_string(),
            "--config".into(),
            config_file.clone().into_os_string(),
            "--log-level".into(),
            level,
        ];
        Some(Self { command, config_file, config, socket })
    }
}

/// Returns our configuration file for dockerd: the user's, byte for byte except for the order of its
/// keys, with `live_restore`.
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
        host.session.daemon_json = DaemonJson::parse(json);
        change(&mut host);
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Keep::decide(&settings.with_args(&args), &host, Path::new("/ours.json"))
    }

    #[rustfmt::skip]
    #[test]
    fn containers_are_kept_unless_the_user_says_otherwise() {
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
            ("auto", r#"{"features": {"embedded-containerd": true}}"#, "", nothing, [false, false, false]),
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
            keep.args(),
            [
                "--config-file=/ours.json",
                "--containerd=/run/user/1000/docker/containerd/containerd.sock"
            ]
        );
        assert_eq!(without_ours(&words), ["-D", "--data-root", "/d"]);
        let engine = keep.engine.expect("ours");
        assert_eq!(engine.command[3..], ["--log-level", "debug"]);
        let parsed: toml::Table = engine.config.parse().expect("TOML");
        assert_eq!(parsed["root"].as_str(), Some("/home/u/.local/share/docker/containerd/daemon"));
    }

    #[rustfmt::skip]
    #[test]
    fn our_file_repeats_the_users() {
        for (user, on, expected) in [
            ("", true, r#"{"live-restore":true}"#),
            ("\u{feff} {}", false, r#"{"live-restore":false}"#),
            (r#"{"mtu": 1e3, "live-restore": false, "a": {"b": [1.50]}}"#, true, r#"{"a":{"b":[1.50]},"live-restore":true,"mtu":1e3}"#),
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
