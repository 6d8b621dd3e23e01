//! Gathers [`HostFacts`]: asks the tools, and reads the kernel's switches.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::Error;
use crate::facts::ask::{ProbeCache, Question};
use crate::facts::look;
use crate::facts::places;
use crate::facts::{
    DockerdFacts, HostFacts, Kernel, Person, RootlesskitFacts, Slirp4netnsFacts, Told, Tool, Tools,
    Version, parse_dockerd_flags, parse_pasta_version, parse_slirp4netns_netns_type,
};
use crate::settings::Settings;
use crate::sys::elevate;

/// Where rootlesskit looks for lxc-user-nic, and nowhere else.
const LXC_USER_NIC: [&str; 4] = [
    "/usr/libexec/lxc/lxc-user-nic",
    "/usr/lib/x86_64-linux-gnu/lxc/lxc-user-nic",
    "/usr/lib/aarch64-linux-gnu/lxc/lxc-user-nic",
    "/usr/lib/lxc/lxc-user-nic",
];

/// How much to find out about the tools.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProbeDepth {
    /// What decides the launch.
    Launch,
    /// What a person wants to see as well, such as versions. It decides nothing.
    Report,
    /// The same, and no file is left that remembers the answers.
    Traceless,
}

/// Finds everything about the host that decides a launch of `person`. Fails only if `/proc` does
/// not tell who we are.
pub fn host(
    settings: &Settings,
    environment: &Environment,
    person: Person,
    depth: ProbeDepth,
) -> Result<HostFacts, Error> {
    let tools = tools(settings, environment, depth);
    let session = look::session(settings, environment, person, tools.rootlesskit.known())?;
    let selinux = File::open("/sys/fs/selinux/enforce").is_ok();
    // A launch asks for it only with SELinux.
    let names_version = selinux || depth != ProbeDepth::Launch;
    Ok(HostFacts {
        exposed: exposed(&tools, session.person.uid),
        tools,
        session,
        addresses: look::addresses(Path::new("/")),
        kernel: Kernel {
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
            selinux,
            bridge_netfilter: Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
            version: names_version
                .then(|| fs::read_to_string("/proc/sys/kernel/osrelease").ok())
                .flatten()
                .and_then(|release| Kernel::parse_version(&release)),
        },
    })
}

/// The programs that run for `uid` and stand in a directory in which others can put another.
fn exposed(tools: &Tools, uid: u32) -> Vec<PathBuf> {
    let is_open = |path: &&Path| {
        let directory = path.parent().and_then(|parent| fs::metadata(parent).ok());
        directory.is_some_and(|found| {
            let mode = found.mode();
            // Where the sticky bit is set, no user replaces another's file.
            let is_shared = mode & 0o002 != 0 && mode & 0o1000 == 0;
            is_shared || ![0, uid].contains(&found.uid())
        })
    };
    [
        tools.rootlesskit.path(),
        tools.dockerd.path(),
        tools.slirp4netns.path(),
        tools.pasta.as_deref(),
    ]
    .into_iter()
    .flatten()
    .filter(is_open)
    .map(Path::to_owned)
    .collect()
}

/// Looks the tools up and asks them, as far as possible all at the same time.
fn tools(settings: &Settings, environment: &Environment, depth: ProbeDepth) -> Tools {
    let (search_path, _) = places::search_path(environment);
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let find = |name: &OsStr| which::which_in(name, Some(&search_path), &directory).ok();
    let find_named = |name: &str| find(OsStr::new(name));
    let mut cache = ProbeCache::open(environment, search_path.clone(), look::uid());

    let named = settings.rootlesskit_binary.value.as_deref();
    let rootlesskit = named.map_or_else(
        || find_named("docker-rootlesskit").or_else(|| find_named("rootlesskit")),
        find,
    );
    let named_dockerd = &*settings.daemon_binary.value;
    let dockerd = find(named_dockerd);
    let slirp4netns = find_named("slirp4netns");
    let pasta = find_named("pasta");
    let report = depth != ProbeDepth::Launch;
    let ask = |path: &Option<PathBuf>| path.as_deref().map(|path| cache.ask(path, "--help"));
    let ask_version = |path: &Option<PathBuf>, is_wanted: bool| {
        let path = path.as_deref().filter(|_| is_wanted)?;
        Some(cache.ask_binary(path, "--version"))
    };
    // dockerd takes the longest: it is asked first.
    let flags = dockerd.as_deref().map(|path| cache.ask_binary(path, "--help"));
    let help = ask(&rootlesskit);
    let netns_type = ask(&slirp4netns);
    let slirp4netns_version = ask_version(&slirp4netns, report);
    let pasta_version =
        pasta.as_deref().filter(|_| report).map(|path| cache.ask(path, "--version"));
    let help = help.map(|question| cache.answer(question, RootlesskitFacts::parse));
    let never_detaches =
        matches!(&help, Some(Ok(facts)) if !facts.flags.contains_key("detach-netns"));
    let is_transparent =
        matches!(&help, Some(Ok(facts)) if facts.flags.contains_key("source-ip-transparent"));
    let dockerd_version = dockerd.as_deref().filter(|_| report || !never_detaches);
    let dockerd_version = dockerd_version.map(|path| cache.ask_binary(path, "--version"));

    let flags = flags.map(|question| cache.answer(question, parse_dockerd_flags));
    let netns_type =
        netns_type.map(|question| cache.answer(question, parse_slirp4netns_netns_type));
    let mut version = |question: Option<Question>| cache.answer(question?, Version::find).ok();
    let dockerd_facts = |flags| DockerdFacts { version: version(dockerd_version), flags };
    let dockerd_answer = flags.map(|answer| answer.map(dockerd_facts));
    let slirp4netns_facts =
        |netns_type| Slirp4netnsFacts { version: version(slirp4netns_version), netns_type };
    let slirp4netns_answer = netns_type.map(|answer| answer.map(slirp4netns_facts));
    let tools = Tools {
        rootlesskit: named_tool(named, Tool::new(rootlesskit, help)),
        dockerd: named_tool(Some(named_dockerd), Tool::new(dockerd, dockerd_answer)),
        slirp4netns: Tool::new(slirp4netns, slirp4netns_answer),
        pasta_version: pasta_version
            .and_then(|question| cache.answer(question, parse_pasta_version).ok()),
        pasta,
        told: match depth {
            ProbeDepth::Traceless => told(&mut cache, find(named_dockerd), find_named),
            _ => Vec::new(),
        },
        has_sudo: elevate::has_sudo(&search_path),
        ..unasked(find_named, report, is_transparent)
    };
    if depth != ProbeDepth::Traceless {
        cache.keep();
    }
    tools
}

/// Asks `dockerd` and the programs below it for the line that tells their version.
fn told(
    cache: &mut ProbeCache,
    dockerd: Option<PathBuf>,
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Vec<Told> {
    let programs =
        [("dockerd", dockerd), ("containerd", find("containerd")), ("runc", find("runc"))];
    let ask = |(program, path): (_, Option<PathBuf>)| {
        let path = path?;
        // The long form of the question is kept with another answer.
        let question = cache.ask_binary(&path, "-v");
        Some((program, path, question))
    };
    let asked: Vec<_> = programs.into_iter().filter_map(ask).collect();
    let first_line = |text: &str| text.lines().next().map(str::to_owned);
    let told = asked.into_iter().filter_map(|(program, path, question)| {
        let line = cache.answer(question, first_line).ok()?;
        Some(Told { program, path, line })
    });
    told.collect()
}

/// Looks up the programs that are not asked: those for a `report` and for the addresses of clients only
/// where they decide something.
fn unasked(find: impl Fn(&str) -> Option<PathBuf>, report: bool, is_transparent: bool) -> Tools {
    let find_if = |is_wanted: bool, name| is_wanted.then(|| find(name)).flatten();
    Tools {
        containerd: find("containerd"),
        vpnkit: find("vpnkit"),
        lxc_user_nic: LXC_USER_NIC.iter().map(PathBuf::from).find(|path| path.exists()),
        iptables: find("iptables").and_then(|path| path.canonicalize().ok()),
        nsenter: find_if(report, "nsenter"),
        iptables_legacy: find("iptables-legacy"),
        ip6tables_legacy: find("ip6tables-legacy"),
        ip: find_if(is_transparent, "ip"),
        sysctl: find_if(is_transparent, "sysctl"),
        ..Tools::default()
    }
}

/// `tool`, unless nothing was found because what is `named` by its path cannot be executed.
fn named_tool<T>(named: Option<&OsStr>, tool: Tool<T>) -> Tool<T> {
    match (tool, named.map(Path::new)) {
        (Tool::Absent, Some(path)) if path.components().count() > 1 && path.exists() => {
            Tool::NotExecutable(path.to_owned())
        }
        (tool, _) => tool,
    }
}
