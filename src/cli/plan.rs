//! `plan`: print what `run` would execute, and why.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::cli::output::{Format, json_word, print, print_json};
use crate::cli::run::{Request, prepare};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::probe::ProbeDepth;
use crate::facts::{HostFacts, Version};
use crate::plan::LaunchPlan;
use crate::settings::ProxyUrl;
use crate::words;

/// Prints the plan, or fails as `run` would; `verbose` adds the command line, the variables and the
/// steps.
pub fn run(
    environment: &Environment,
    request: &Request,
    format: Format,
    verbose: bool,
) -> Result<Exit, Error> {
    let (plan, host) = prepare(environment, request, ProbeDepth::Report)?;
    match format {
        Format::Text => print(text(&plan, &host, verbose)),
        Format::Json => print_json(json(&plan, &host)),
    }?;
    Ok(Exit::Good)
}

/// Returns the plan for people; commands hold any bytes.
fn text(plan: &LaunchPlan, host: &HostFacts, verbose: bool) -> Vec<u8> {
    let version = |found: Option<Version>| found.map_or(String::new(), |found| format!(" {found}"));
    let dockerd = version(host.tools.dockerd.known().and_then(|facts| facts.version));
    let rootlesskit = version(host.tools.rootlesskit.known().and_then(|facts| facts.version));
    let mut text = Text::default();
    text.line(0, format!("dockerd{dockerd} in namespaces of rootlesskit{rootlesskit}\n"));
    for reason in &plan.reasons {
        text.line(2, format!("{:<26} {:<12} {}", reason.key, reason.value, reason.why));
    }
    let data_root = host.session.places.data_root.display();
    text.line(2, format!("{:<26} {data_root}\n", "data root"));
    let removals = plan.removals.iter().map(|(path, why)| format!("{}: {why}", path.display()));
    text.section("Stale files to remove first:", removals);
    text.section("Warnings:", plan.warnings.iter().map(|warning| warning.0.as_str()));
    if verbose {
        text.details(plan);
    } else {
        text.line(0, "Commands and steps: dockerd-rootless plan -v");
    }
    text.0
}

#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    fn line(&mut self, indent: usize, line: impl AsRef<OsStr>) {
        self.0.extend(std::iter::repeat_n(b' ', indent));
        self.0.extend(line.as_ref().as_bytes());
        self.0.push(b'\n');
    }

    fn section<T: Display>(&mut self, title: &str, rows: impl IntoIterator<Item = T>) {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_some() {
            self.line(0, title);
            rows.for_each(|row| self.line(2, row.to_string()));
            self.line(0, "");
        }
    }

    fn details(&mut self, plan: &LaunchPlan) {
        self.line(0, "Command:");
        let mut command = words::quote(plan.rootlesskit.as_os_str());
        for (at, word) in plan.args.iter().enumerate() {
            command.push(" \\");
            self.line(if at == 0 { 2 } else { 4 }, &command);
            command = words::quote(word);
        }
        self.line(4, &command);
        self.line(0, "");
        let set = plan.environment.set.iter().map(|(name, (value, why))| {
            format!("{name}={}: {why}", words::quote(&shown(name, value)).display())
        });
        let unset = plan.environment.unset.iter();
        let unset = unset.map(|(name, why)| format!("{name} is unset: {why}"));
        self.section("Environment:", set.chain(unset));
        let execute = format!("execute {}", words::join(&plan.stage.daemon).display());
        let steps = plan.stage.steps.iter().map(|step| step.explain()).chain([execute]);
        let steps = steps.enumerate().map(|(at, step)| format!("{}. {step}", at + 1));
        self.section("Inside the namespaces:", steps);
    }
}

/// Returns the value of a variable, without the password of a proxy's address.
fn shown(name: &str, value: &OsStr) -> OsString {
    match name {
        "HTTP_PROXY" | "HTTPS_PROXY" => ProxyUrl(value.to_owned()).redacted().into(),
        _ => value.to_owned(),
    }
}

/// Returns the plan for programs.
fn json(plan: &LaunchPlan, host: &HostFacts) -> Value {
    let args = plan.args.iter().map(OsString::as_os_str);
    let argv = std::iter::once(plan.rootlesskit.as_os_str()).chain(args);
    let set = plan.environment.set.iter().map(
        |(name, (value, why))| json!({"name": name, "value": json_word(&shown(name, value)), "reason": why}),
    );
    let unset = plan.environment.unset.iter();
    let unset = unset.map(|(name, why)| json!({"name": name, "reason": why}));
    let steps = plan.stage.steps.iter();
    let steps = steps.map(|step| json!({"word": json_word(&step.word()), "what": step.explain()}));
    let removals = plan.removals.iter();
    let removals =
        removals.map(|(path, why)| json!({"path": json_word(path.as_os_str()), "reason": why}));
    json!({
        "argv": argv.map(json_word).collect::<Vec<_>>(),
        "environment": {"set": set.collect::<Vec<_>>(), "unset": unset.collect::<Vec<_>>()},
        "remove": removals.collect::<Vec<_>>(),
        "steps": steps.collect::<Vec<_>>(),
        "daemon": plan.stage.daemon.iter().map(|word| json_word(word)).collect::<Vec<_>>(),
        "reasons": plan.reasons,
        "warnings": plan.warnings,
        // A path that is not UTF-8 has no name in JSON.
        "host": {
            "tools": serde_json::to_value(&host.tools)
                .unwrap_or_else(|error| json!({"unknown": error.to_string()})),
            "kernel": host.kernel,
        },
    })
}
