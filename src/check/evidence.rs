//! What the checks judge.

use crate::check::survey::Survey;
use crate::check::trials::Trials;
use crate::environment::Environment;
use crate::facts::{HostFacts, Version};
use crate::plan::{Network, Refusal};
use crate::settings::{Flags, Origin, Settings};

/// What the checks judge.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    pub settings: &'a Settings,
    pub environment: &'a Environment,
    pub host: &'a HostFacts,
    pub survey: &'a Survey,
    pub trials: &'a Trials,
}

impl<'a> Evidence<'a> {
    /// Returns the user's own flags for rootlesskit.
    pub fn flags(&self) -> Flags<'a> {
        self.host.tools.flags(self.settings)
    }

    /// Returns the network that a launch would have.
    pub fn network(&self) -> Result<Network, Refusal> {
        Network::decide(self.settings, self.host)
    }

    /// Returns the value of dockerd's option `--name`, from its arguments or its configuration file.
    pub fn daemon_option(&self, name: &str) -> Option<String> {
        let args = self.settings.args();
        let by_arg = args.value(name);
        let by_arg = by_arg.map(|value| value.to_string_lossy().into_owned());
        by_arg.or_else(|| self.host.session.daemon_json.text(name).map(str::to_owned))
    }

    /// Returns whether dockerd is told `false` for `name`.
    pub fn daemon_turns_off(&self, name: &str) -> bool {
        self.settings.args().switch(name) == Some(false)
            || self.host.session.daemon_json.turns_off(name)
    }

    pub fn dockerd_version(&self) -> Option<Version> {
        self.host.tools.dockerd.known()?.version
    }

    pub fn rootlesskit_version(&self) -> Option<Version> {
        self.host.tools.rootlesskit.known()?.version
    }

    /// Returns what sets the setting `key`.
    pub fn origin(&self, key: &str) -> Origin {
        let mut settings = self.settings.show().into_iter();
        let found = settings.find(|(known, ..)| known.name == key);
        found.map_or(Origin::Default, |(.., origin)| origin.clone())
    }
}
