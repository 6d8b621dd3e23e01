//! Renders what `check` found: a table with the failures last, an object, and scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::check::{CHECKS, Evidence, Finding, Named, Status};
use crate::cli::output::{SCHEMA, Whose, json_line};
use crate::facts::Tool;

/// The page that describes every check.
const DOCS: &str = "docs/checks.md";

/// How wide a line of reasons may get, in characters.
const WIDTH: usize = 100;

/// The table for people: failures last, where the eye is when it is printed.
pub fn findings_text(findings: &[Named], colored: bool) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut sorted: Vec<&Named> = findings.iter().collect();
    // A stable sort: the order of a launch remains within each status.
    sorted.sort_by_key(|(_, finding)| match finding.status {
        Status::Ok => 0,
        Status::Skip => 1,
        Status::Warn => 2,
        Status::Fail => 3,
    });
    for (name, finding) in sorted {
        let word = painted(finding.status, colored);
        let _ = writeln!(text, "{word}  {name:width$}  {}", one_line(&finding.summary));
        let alone = findings.len() == 1;
        if matches!(finding.status, Status::Warn | Status::Fail) || alone {
            explain(&mut text, finding);
        }
    }
    let counts = [
        (Status::Ok, "ok"),
        (Status::Skip, "skipped"),
        (Status::Warn, "with a drawback"),
        (Status::Fail, "failed"),
    ];
    let counts = counts.map(|(status, word)| format!("{} {word}", count(findings, status)));
    let _ = writeln!(text, "{}", counts.join(", "));
    text
}

/// The reasons and the commands of a finding, indented.
fn explain(text: &mut String, finding: &Finding) {
    for reason in &finding.reasons {
        for line in wrapped(&one_line(reason)) {
            let _ = writeln!(text, "      {line}");
        }
    }
    for (whose, commands) in [("as root", &finding.fix.root), ("as you", &finding.fix.user)] {
        if !commands.is_empty() {
            let _ = writeln!(text, "      {whose}:");
        }
        for line in commands.iter().flat_map(|command| command.lines()) {
            let _ = writeln!(text, "        {}", one_line(line));
        }
    }
}

/// `text` without line breaks and other control characters: it may quote what programs and files
/// of others say, and neither a script nor a terminal must take that for orders.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// `reason` in lines of at most [`WIDTH`] characters; longer words stay whole.
fn wrapped(reason: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in reason.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > WIDTH
        {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

/// The status as a word of four letters, in the colour that terminals give to it.
fn painted(status: Status, colored: bool) -> String {
    let (word, color) = match status {
        Status::Ok => ("ok  ", 32),
        Status::Skip => ("skip", 36),
        Status::Warn => ("warn", 33),
        Status::Fail => ("FAIL", 31),
    };
    match colored {
        true => format!("\u{1b}[{color}m{word}\u{1b}[0m"),
        false => word.to_owned(),
    }
}

/// How many findings have `status`.
fn count(findings: &[Named], status: Status) -> usize {
    findings.iter().filter(|(_, finding)| finding.status == status).count()
}

/// The object for programs.
pub fn findings_json(findings: &[Named], evidence: &Evidence<'_>) -> Vec<u8> {
    let checks: Vec<Value> = findings
        .iter()
        .map(|(name, finding)| {
            json!({
                "name": name,
                "status": finding.status,
                "summary": finding.summary,
                "reason": finding.reasons.join("; "),
                "fix": finding.fix,
                "docs": format!("{DOCS}#{name}"),
            })
        })
        .collect();
    let tools = &evidence.host.tools;
    let rootlesskit = tools.rootlesskit.known().and_then(|facts| facts.version);
    let dockerd = tools.dockerd.known().and_then(|facts| facts.version);
    json_line(json!({
        "schema": SCHEMA,
        "host": {
            "os": evidence.survey.release.pretty_name,
            "kernel": evidence.survey.kernel,
            "user": evidence.survey.account.name,
            "uid": evidence.survey.account.uid,
            "rootlesskit": shown(&tools.rootlesskit, rootlesskit),
            "dockerd": shown(&tools.dockerd, dockerd),
        },
        "checks": checks,
        "counts": {
            "ok": count(findings, Status::Ok),
            "warn": count(findings, Status::Warn),
            "fail": count(findings, Status::Fail),
            "skip": count(findings, Status::Skip),
        },
    }))
}

fn shown<T>(tool: &Tool<T>, version: Option<crate::facts::Version>) -> Value {
    match tool.path() {
        None => Value::Null,
        Some(path) => json!({
            "path": path.to_string_lossy(),
            "version": version.map(|version| version.to_string()),
        }),
    }
}

/// The commands of one side, each group below the name of its check. Where nothing is wrong, a
/// command is no more than an option, and not for a script that mends.
fn script(findings: &[Named], commands: fn(&Finding) -> &[String]) -> String {
    let mut script = String::new();
    let wrong = findings
        .iter()
        .filter(|(_, finding)| matches!(finding.status, Status::Warn | Status::Fail));
    for (name, finding) in wrong {
        if !commands(finding).is_empty() {
            let _ = writeln!(script, "# {name}: {}", one_line(&finding.summary));
        }
        for command in commands(finding) {
            let _ = match command.split('\n').all(|line| one_line(line) == line) {
                true => writeln!(script, "{command}"),
                // A terminal takes such characters for its own, also where a script is pasted.
                false => writeln!(script, "# with control characters: {}", one_line(command)),
            };
        }
    }
    script
}

/// A word that no line of `script` is, to end it as a here-document: `word`, with as many `_` behind
/// it as that takes.
fn end_of(script: &str, word: &str) -> String {
    let mut end = word.to_owned();
    while script.lines().any(|line| line == end) {
        end.push('_');
    }
    end
}

/// What `dockerd-rootless-setuptool.sh check` prints: root's commands in upstream's own frame,
/// which people and scripts know, and the user's below it.
pub fn setup_instructions(findings: &[Named]) -> String {
    let root = script(findings, |finding| &finding.fix.root);
    let user = script(findings, |finding| &finding.fix.user);
    let mut text = String::new();
    if !root.is_empty() {
        let end = end_of(&root, "EOF");
        // The frame's own shell reads the text first.
        let escaped = root.replace('\\', "\\\\").replace('$', "\\$").replace('`', "\\`");
        let _ = write!(
            text,
            "\n########## BEGIN ##########\nsudo sh -eux <<{end}\n{escaped}{end}\n########## END ##########\n\n"
        );
    }
    text + &user
}

/// The commands that mend what was found. For both at once: to be pasted into the user's shell,
/// which runs `elevate`, such as `sudo sh -eux <<`, for root's.
pub fn fix_script(findings: &[Named], whose: Whose, elevate: &str) -> String {
    let root = script(findings, |finding| &finding.fix.root);
    let user = script(findings, |finding| &finding.fix.user);
    match whose {
        Whose::Root => root,
        Whose::User => user,
        Whose::Both if root.is_empty() => user,
        Whose::Both => {
            let end = end_of(&root, "ROOT");
            format!("{elevate}'{end}'\n{root}{end}\n{user}")
        }
    }
}

/// The names of all checks.
pub fn check_list_text() -> String {
    let width = CHECKS.iter().map(|check| check.name.len()).max().unwrap_or_default();
    CHECKS.iter().map(|check| format!("{:width$}  {}\n", check.name, check.about)).collect()
}

/// The same as an object.
pub fn check_list_json() -> Vec<u8> {
    let checks = CHECKS
        .iter()
        .map(|check| json!({"name": check.name, "about": check.about, "docs": format!("{DOCS}#{}", check.name)}));
    json_line(json!({"schema": SCHEMA, "checks": checks.collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_ends_a_script_or_reaches_the_terminal() {
        let finding = Finding::fail("x")
            .root("mkdir '/x\nROOT\ntouch pwned\n'")
            .root("cat >/etc/x <<'EOF'\ny\nEOF")
            .root("mkdir '/x\u{1b}[201~'");
        let findings = [("home", finding)];
        assert_eq!(
            fix_script(&findings, Whose::Both, "sudo sh -eux <<"),
            "sudo sh -eux <<'ROOT_'\n\
             # home: x\n\
             mkdir '/x\nROOT\ntouch pwned\n'\n\
             cat >/etc/x <<'EOF'\ny\nEOF\n\
             # with control characters: mkdir '/x [201~'\n\
             ROOT_\n"
        );
        let framed = setup_instructions(&findings);
        assert!(framed.contains("sudo sh -eux <<EOF_\n"), "{framed}");
        assert!(framed.contains("\nEOF_\n#####"), "{framed}");
        let told = findings_text(&findings, false);
        assert!(!told.contains('\u{1b}'), "{told}");
    }
}
