//! Decides what dockerd is told beyond the user's arguments: the containers' MTU, where it listens,
//! the iptables backend. What the user states, in arguments or in `daemon.json`,
//! counts more.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Exit, Warning};
use crate::facts::places::api_socket;
use crate::facts::{HostFacts, Session, Tools};
use crate::plan::api::{self, has_hosts};
use crate::plan::keep::{self, Keep};
use crate::plan::misspelt::refuse_misspelt;
use crate::plan::network::{Network, Refusal};
use crate::plan::preflight::SOCKET_PATH_MAX;
use crate::plan::source_ip::Source;
use crate::plan::stage::{Family, Step};
use crate::plan::{Link, Reason, addresses, fixed, install_hint, required_program};
use crate::settings::{Iptables, Number, Settings};

/// dockerd's own default MTU in bytes (`DefaultNetworkMtu` of moby).
const DOCKERD_MTU: u32 = 1500;

/// The longest socket path in bytes that containerd takes (`sys.CreateUnixSocket`).
const CONTAINERD_SOCKET_PATH_MAX: usize = 104;

/// dockerd's own `--shutdown-timeout` in seconds, and the longest that we wait for.
const SHUTDOWN_TIMEOUT: u64 = 15;
const SHUTDOWN_TIMEOUT_MAX: u64 = 86_400;

/// How dockerd starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its program, our arguments, and the user's.
    pub command: Vec<OsString>,
    /// What outlives it.
    pub keep: Keep,
    /// What becomes of the addresses of clients.
    pub source: Source,
    pub reasons: Vec<Reason>,
    /// What is odd.
    pub warnings: Vec<Warning>,
}

impl Daemon {
    /// Decides for namespaces with this network. `config` is where a supervisor would put a
    /// configuration file for dockerd.
    pub fn decide(
        settings: &Settings,
        host: &HostFacts,
        link: &Link,
        source: &Source,
        config: Option<&Path>,
    ) -> Result<Self, Error> {
        let tools = &host.tools;
        let named = &settings.daemon_binary.value;
        let dockerd = required_program(tools, &tools.dockerd, Some(named), "dockerd")?;
        refuse_misspelt(&settings.dockerd_args, tools.dockerd.known())?;
        let (mut args, reason) = container_mtu(settings, host, link.mtu);
        args.extend(source.daemon_arg.map(OsString::from));
        let mut reasons = vec![reason];
        let told = [addresses::bridge, addresses::host_gateway].map(|of| of(settings, host, link));
        for (arg, reason) in told.into_iter().flatten() {
            args.extend(arg);
            reasons.push(reason);
        }
        let mut warnings = Vec::new();
        let session = &host.session;
        if let Some((hosts, reason)) = api::hosts(settings, session, link)? {
            if !settings.args().has("host") && session.daemon_json.may_set("hosts") {
                warnings.push(Warning(format!("passed sockets may not be served: {}", reason.why)));
            }
            args.extend(hosts);
            reasons.push(reason);
        }
        warnings.extend(api::judge_tcp(settings, session, link)?);
        let mut keep = Keep::default();
        if let Some(config) = config {
            let (kept, reason) = Keep::decide(settings, host, config)?;
            args.extend(kept.args());
            reasons.push(reason);
            keep = kept;
        }
        let users = match keep.config {
            Some(_) => keep::without_ours(&settings.dockerd_args),
            None => settings.dockerd_args.clone(),
        };
        let command = [vec![dockerd.into()], args, users].concat();
        Ok(Self { command, keep, source: source.clone(), reasons, warnings })
    }

    /// Decides anew for namespaces that are there, with this network.
    pub fn renew(
        settings: &Settings,
        host: &HostFacts,
        link: &Link,
        config: &Path,
    ) -> Result<Self, Error> {
        let refuse = |refusal: Refusal| refusal.error(&host.tools);
        let network = Network::decide(settings, host).map_err(refuse)?;
        network.refuse_source().map_err(refuse)?;
        Self::decide(settings, host, link, &network.source, Some(config))
    }
}

/// Returns the arguments that give containers their MTU, and why. Unlike the namespace's own
/// interface, containers get 1500 from dockerd, and the two together cost most of the upload
/// (moby#44750).
fn container_mtu(settings: &Settings, host: &HostFacts, own: u32) -> (Vec<OsString>, Reason) {
    let daemon_json = &host.session.daemon_json;
    let args = settings.args();
    let reason = |value: &str, why: String| Reason::new("network.container-mtu", value, why);
    let (Number(mtu), why) = fixed(&settings.container_mtu).unwrap_or_else(|| {
        let why = "the same as the namespace's interface, so that no packet is cut on the way";
        (Number(own), why.to_owned())
    });
    let left = match mtu {
        0 => Some(why.clone()),
        _ => stated(settings, &host.session, &[("mtu", "mtu")]),
    };
    if let Some(why) = left {
        return (Vec::new(), reason("dockerd's own", why));
    }
    let mut ours = Vec::new();
    if mtu != DOCKERD_MTU {
        ours.push(format!("--mtu={mtu}").into());
        let option = "default-network-opt";
        let is_own = args.has(option) || daemon_json.may_set("default-network-opts");
        // For bridges that users create; older versions leave those at 1500.
        if !is_own && host.tools.dockerd.known().is_some_and(|facts| facts.has_flag(option)) {
            ours.push(format!("--{option}=bridge=com.docker.network.driver.mtu={mtu}").into());
        }
    }
    (ours, reason(&mtu.to_string(), why))
}

/// Says where the user states one of these, by a flag or by its key in `daemon.json`.
pub(super) fn stated(
    settings: &Settings,
    session: &Session,
    options: &[(&str, &str)],
) -> Option<String> {
    let args = settings.args();
    let json = session.places.daemon_json.display();
    options.iter().find_map(|(flag, key)| match args.has(flag) {
        true => Some(format!("dockerd's arguments have --{flag}")),
        false if session.daemon_json.may_set(key) => {
            Some(format!("`{json}` sets {key}, or cannot be read"))
        }
        false => None,
    })
}

/// How long dockerd itself lets containers end when it does, before their own times count.
pub fn shutdown_timeout(settings: &Settings, session: &Session) -> Duration {
    let seconds: Option<i64> = match settings.args().value("shutdown-timeout") {
        Some(text) => text.to_str().and_then(|text| text.parse().ok()),
        None => session.daemon_json.number("shutdown-timeout"),
    };
    let seconds = seconds.map_or(SHUTDOWN_TIMEOUT, |seconds| {
        // To dockerd a negative number is for ever.
        u64::try_from(seconds).unwrap_or(SHUTDOWN_TIMEOUT_MAX)
    });
    Duration::from_secs(seconds.min(SHUTDOWN_TIMEOUT_MAX))
}

/// Returns the steps that choose dockerd's iptables, and why.
pub(super) fn iptables(
    settings: &Settings,
    host: &HostFacts,
) -> Result<(Vec<Step>, Reason), Error> {
    const KEY: &str = "daemon.iptables";
    let Tools { iptables_legacy, ip6tables_legacy, .. } = &host.tools;
    let origin = &settings.iptables.origin;
    let lacks = if iptables_legacy.is_none() {
        Some("no iptables-legacy is installed")
    } else {
        let place = "/run is not copied up, so there is no place of our own for the links";
        (!settings.copies_up("/run")).then_some(place)
    };
    let required = settings.iptables.value == Iptables::Legacy;
    let why_not = match (settings.iptables.value, lacks) {
        (Iptables::Path, _) => Some(origin.to_string()),
        (Iptables::Auto, lacks) => decided_elsewhere(settings, host).or(lacks).map(str::to_owned),
        (Iptables::Legacy, None) => None,
        (Iptables::Legacy, Some(lacks)) => {
            let back = origin.take_back(KEY, "auto");
            let (exit, hint) = match iptables_legacy {
                Some(_) => (Exit::Config, back),
                None => {
                    let install = install_hint(&host.tools, "iptables");
                    (Exit::Prerequisite, format!("{install}, or: {back}"))
                }
            };
            let what = format!("{KEY} is `legacy`, but {lacks}");
            return Err(Error::new(exit, what).hint(hint).check("netfilter"));
        }
    };
    if let Some(why) = why_not {
        return Ok((Vec::new(), Reason::new(KEY, "path", why)));
    }
    let families = [(Family::Ipv4, iptables_legacy), (Family::Ipv6, ip6tables_legacy)];
    let steps = families.into_iter().filter_map(|(family, program)| {
        let required = required && family == Family::Ipv4;
        Some(Step::LegacyIptables { family, program: program.clone()?, required })
    });
    let faster = "it starts faster, and the namespace is private; else PATH decides";
    let why = if required { origin.to_string() } else { faster.to_owned() };
    Ok((steps.collect(), Reason::new(KEY, "legacy", why)))
}

/// Says why `auto` leaves iptables to PATH, although the legacy one may be there.
fn decided_elsewhere(settings: &Settings, host: &HostFacts) -> Option<&'static str> {
    let (args, json) = (settings.args(), &host.session.daemon_json);
    let is_other = |path: &PathBuf| !path.ends_with("xtables-nft-multi");
    if args.switch("iptables") == Some(false) || json.turns_off("iptables") {
        Some("dockerd runs with `--iptables=false`")
    } else if args.value("firewall-backend").is_some_and(|value| value != "iptables")
        || json.may_set("firewall-backend")
    {
        Some("dockerd is told which firewall backend to use")
    } else {
        let is_other = host.tools.iptables.as_ref().is_some_and(is_other);
        is_other.then_some("PATH has another iptables than the nft backend first")
    }
}

/// Returns the longest sockets that dockerd will make by itself, each with the bytes that its path
/// may have. Sockets that a service manager passes take the place of its own.
pub(super) fn sockets(settings: &Settings, session: &Session) -> Vec<(PathBuf, usize)> {
    let mut sockets = Vec::new();
    let is_made = session.listen_fds.as_ref().is_none_or(|fds| fds.is_own);
    if is_made && !has_hosts(settings, session) {
        sockets.push((api_socket(&session.places.runtime_dir), SOCKET_PATH_MAX));
    }
    if !settings.args().has("containerd") && !session.daemon_json.may_set("containerd") {
        let longest = session.places.containerd().join("containerd-debug.sock");
        sockets.push((longest, CONTAINERD_SOCKET_PATH_MAX));
    }
    sockets
}
