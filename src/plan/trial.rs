//! A launch that only tries: rootlesskit with the drivers and the steps of the real one, in a state
//! directory of its own, and one of our own commands in the daemon's place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::Error;
use crate::facts::HostFacts;
use crate::facts::places::search_path;
use crate::plan::stage::{Stage, Step, TRIAL};
use crate::plan::{admit, daemon, preflight, rootlesskit_args, steps};
use crate::settings::Settings;

/// What to execute for a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// rootlesskit's absolute path.
    pub rootlesskit: PathBuf,
    /// rootlesskit's arguments, ours for the inside at their end.
    pub args: Vec<OsString>,
    /// The arguments for the inside alone, to try them without rootlesskit.
    pub inside: Vec<OsString>,
    /// PATH for it.
    pub search_path: OsString,
}

impl Trial {
    /// Decides as [`crate::plan::LaunchPlan::build`] does, except for what concerns the daemon that
    /// may be running: a trial shares neither its state directory nor its ports. `subject` is handed
    /// to our command inside.
    pub fn build(
        settings: &Settings,
        host: &HostFacts,
        environment: &Environment,
        state_dir: &Path,
        subject: OsString,
    ) -> Result<Self, Error> {
        let (rootlesskit, network) = admit(settings, host)?;
        preflight::refuse_long_paths(&preflight::rootlesskit_sockets(state_dir, &network))?;
        let possible = network.refuse_impossible(&host.tools, true);
        possible.map_err(|refusal| refusal.error(&host.tools))?;
        let (iptables, _) = daemon::iptables(settings, host)?;
        let mut steps = steps(settings, host, &network.port_driver, &iptables);
        steps.retain(|step| !matches!(step, Step::TakeSockets { .. } | Step::RequireSourceIp));
        let stage = Stage {
            keeper: None,
            outside: host.session.user_namespace,
            netns: network.detach_netns.then(|| state_dir.join("netns")),
            steps,
            daemon: vec![subject],
        };
        let mut inside = stage.words();
        inside[0] = TRIAL.into();
        let flags = host.tools.flags(settings).without(&["state-dir", "publish", "p"]);
        let args = rootlesskit_args(settings, &network, state_dir, &flags, &host.session.own_path);
        Ok(Self {
            rootlesskit,
            args: [&args[..], &inside].concat(),
            inside,
            search_path: search_path(environment).0,
        })
    }
}
