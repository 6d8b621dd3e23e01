//! A launch that only tries: rootlesskit with the drivers and the steps of the real one, in a state
//! directory of its own, and one of our own commands in the daemon's place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::Error;
use crate::facts::HostFacts;
use crate::plan::daemon::Daemon;
use crate::plan::network::Network;
use crate::plan::stage::{Stage, Step, TRIAL};
use crate::plan::{preflight, required_program, rootlesskit_words, search_path, steps};
use crate::settings::Settings;

/// What to execute for a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// rootlesskit's absolute path.
    pub rootlesskit: PathBuf,
    /// rootlesskit's words, ours for the inside at their end.
    pub words: Vec<OsString>,
    /// The words for the inside alone, to try them without rootlesskit.
    pub inside: Vec<OsString>,
    /// PATH for it.
    pub search_path: OsString,
}

impl Trial {
    /// Decides as [`crate::plan::LaunchPlan::build`] does, but for what concerns the daemon that may be
    /// running: a trial shares neither its state directory nor its ports. `subject` is handed to
    /// our command inside.
    ///
    /// # Errors
    /// The refusals of the user, the drivers and the socket paths.
    pub fn build(
        settings: &Settings,
        host: &HostFacts,
        environment: &Environment,
        words: &[OsString],
        state_dir: &Path,
        subject: OsString,
    ) -> Result<Self, Error> {
        let HostFacts { tools, session, .. } = host;
        preflight::refuse_person(&session.person)?;
        let rootlesskit = required_program(
            &tools.rootlesskit,
            settings.rootlesskit_binary.value.as_deref(),
            "rootlesskit",
        )?;
        let flags = crate::plan::stated_flags(settings, tools)?;
        let network = Network::decide(settings, tools, &flags)?;
        let daemon = Daemon::decide(settings, host, network.effective.mtu, words, None)?;
        let sockets = preflight::rootlesskit_sockets(state_dir, &network.effective);
        preflight::refuse_long_paths(&sockets)?;
        network.refuse_impossible(settings, tools, &flags)?;
        network.refuse_old_dockerd(settings, tools)?;
        let mut steps = steps(settings, host, &daemon);
        steps.retain(|step| !matches!(step, Step::TakeSockets { .. }));
        let stage = Stage {
            keeper: None,
            outside: session.user_namespace,
            netns: network.effective.detach_netns.then(|| state_dir.join("netns")),
            steps,
            daemon: vec![subject],
        };
        let mut inside = stage.words();
        inside[0] = TRIAL.into();
        let mut trial_settings = settings.clone();
        trial_settings.rootlesskit_flags.value = flags.without(&["state-dir", "publish", "p"]);
        let mut words = rootlesskit_words(&trial_settings, state_dir, &network, &session.own_path);
        words.extend(inside.iter().cloned());
        Ok(Self {
            rootlesskit: rootlesskit.to_owned(),
            words,
            inside,
            search_path: search_path(environment).0,
        })
    }
}
