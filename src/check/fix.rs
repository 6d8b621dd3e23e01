//! What fixes a host, and how it is written for its distribution.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::check::evidence::Evidence;
use crate::check::packages::{self, Package};
use crate::check::survey::Survey;
use crate::settings::Origin;
use crate::words;

/// A remedy. Each may be applied twice.
#[derive(Debug)]
pub enum Fix {
    Package(Package),
    /// A setting of the kernel and its value.
    Sysctl(&'static str, String),
    Modules(&'static [&'static str]),
    /// A file of root's and its text.
    File(String, String),
    Linger,
    /// A setting of ours and its value.
    Set(&'static str, String),
    /// A command for root.
    Root(String),
    /// A command for the user.
    User(String),
    /// What no command does.
    Tell(String),
}

/// Lines to paste, root's and the user's apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Commands {
    pub root: Vec<String>,
    pub user: Vec<String>,
}

/// Writes `fixes` as commands; what has none becomes a sentence among the `reasons`.
pub fn render(evidence: &Evidence<'_>, fixes: Vec<Fix>, reasons: &mut Vec<String>) -> Commands {
    let mut commands = Commands::default();
    for line in fixes.into_iter().flat_map(|fix| lines(evidence, fix)) {
        match line {
            Fix::Root(line) => commands.root.push(line),
            Fix::User(line) => commands.user.push(line),
            Fix::Tell(sentence) => reasons.push(sentence),
            _ => {}
        }
    }
    commands.root.dedup();
    commands.user.dedup();
    name_ourselves(evidence, &mut commands.user);
    commands
}

/// Writes one fix as lines of shell and sentences.
fn lines(evidence: &Evidence<'_>, fix: Fix) -> Vec<Fix> {
    let survey = evidence.survey;
    let nixos = survey.release.is_like("nixos");
    let nix = |text: String| Fix::Tell(format!("on NixOS, {text} in configuration.nix"));
    let user = survey.account.display_name();
    let line = match fix {
        Fix::Package(package) => {
            packages::install(&survey.release, package).map_or_else(Fix::Tell, Fix::Root)
        }
        Fix::Sysctl(name, value) if nixos => {
            nix(format!("set `boot.kernel.sysctl.\"{name}\" = \"{value}\";`"))
        }
        Fix::Sysctl(name, value) => {
            // Files are read in the order of their names and the last one wins: this one comes
            // behind `99-sysctl.conf` and what hardening guides write.
            let file = format!("/etc/sysctl.d/99-zz-{name}.conf");
            Fix::Root(format!("echo '{name} = {value}' >{file} && sysctl -p {file}"))
        }
        Fix::Modules(names) => return modules(survey, names),
        Fix::File(path, _) if nixos => nix(format!("declare what belongs into `{path}`")),
        Fix::File(path, text) => Fix::Root(write_file(&path, &text)),
        Fix::Linger if nixos => nix(format!("set `users.users.{user}.linger = true;`")),
        Fix::Linger => Fix::Root(format!("loginctl enable-linger {}", quoted(&user))),
        Fix::Set(key, value) => return set(evidence, key, &value),
        line => line,
    };
    vec![line]
}

/// Sets `key`, where nothing else that sets it wins.
fn set(evidence: &Evidence<'_>, key: &str, value: &str) -> Vec<Fix> {
    // The user's own flags for rootlesskit win.
    let flag = if key == "network.driver" { "net" } else { key.trim_start_matches("network.") };
    if evidence.flags().has(flag) {
        return vec![Fix::Tell(format!("remove `--{flag}` from rootlesskit.flags"))];
    }
    let dashes = if value.starts_with('-') { "-- " } else { "" };
    let line = Fix::User(format!("dockerd-rootless config set {key} {dashes}{}", quoted(value)));
    match evidence.origin(key) {
        Origin::CommandLine => {
            let instead = format!("use `--set {key}={value}`");
            vec![Fix::Tell(format!("`--set` on the command line sets {key}: {instead}"))]
        }
        Origin::Variable(name) => {
            let why =
                format!("`{name}` sets {key}: remove it from your shell's start-up file, too");
            vec![Fix::User(format!("unset {name}")), Fix::Tell(why), line]
        }
        _ => vec![line],
    }
}

/// Loads kernel modules now and at each start, if the kernel is this host's own.
fn modules(survey: &Survey, names: &[&str]) -> Vec<Fix> {
    let list = names.join(" ");
    let sentence = if survey.surroundings.wsl {
        format!(
            "Windows provides the kernel, and it lacks {list}: run `wsl --update` and then `wsl --shutdown` in Windows"
        )
    } else if survey.surroundings.container.is_some() {
        format!("load the kernel modules {list} on the container's host")
    } else if !survey.modules {
        format!("this kernel loads no modules: it has to be built with {list}")
    } else if survey.release.is_like("nixos") {
        let names = names.join("\" \"");
        format!("on NixOS, set `boot.kernelModules = [ \"{names}\" ];` in configuration.nix")
    } else {
        // systemd and OpenRC both read this directory.
        let file = format!("/etc/modules-load.d/dockerd-rootless-{}.conf", names[0]);
        let line = format!("{} && modprobe -a {list}", write_file(&file, &names.join("\n")));
        let why = "after an update of the kernel, its modules are missing until you reboot";
        let why = survey.release.is_like("arch").then(|| Fix::Tell(why.to_owned()));
        return why.into_iter().chain([Fix::Root(line)]).collect();
    };
    vec![Fix::Tell(sentence)]
}

/// Returns the line of shell that writes `text` to `path`: no here-document, so that it may be
/// indented.
fn write_file(path: &str, text: &str) -> String {
    let lines: Vec<String> = text.lines().map(quoted).collect();
    let parent = Path::new(path).parent().unwrap_or(Path::new("/")).display();
    format!("mkdir -p {parent} && printf '%s\\n' {} >{path}", lines.join(" "))
}

/// Puts our own path in front of our own commands, unless a shell finds us by name.
fn name_ourselves(evidence: &Evidence<'_>, commands: &mut [String]) {
    const NAME: &str = "dockerd-rootless";
    let own = &evidence.host.session.own_path;
    // Without PATH, shells look where distributions put programs.
    let path = evidence.environment.get("PATH");
    let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin".as_ref());
    if std::env::split_paths(path).any(|directory| directory.join(NAME) == *own) {
        return;
    }
    for command in commands {
        if let Some(args) = command.strip_prefix("dockerd-rootless ") {
            *command = format!("{} {args}", quoted(own));
        }
    }
}

/// Returns `path` or an argument as it is typed in a shell.
pub fn quoted(word: impl Into<PathBuf>) -> String {
    words::quote(word.into().as_os_str()).display().to_string()
}
