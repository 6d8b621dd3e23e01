//! Renders what `check` found: a report for a terminal, plain lines, an object, and scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::check::{CHECKS, Evidence, Found, Status};
use crate::cli::output::{SCHEMA, Whose, json_line};
use crate::facts::{Tool, Version};

/// The page that describes every check, and where it is.
const DOCS: &str = "docs/checks.md";
const BASE_URL: &str = "https://github.com/dockerd-rootless/dockerd-rootless/blob/main";

/// How a report looks.
pub struct CheckStyle {
    pub colored: bool,
    /// The terminal's width; plain lines without one.
    pub width: Option<usize>,
    /// Only problems, in a line each.
    pub short: bool,
    /// Every check.
    pub verbose: bool,
    /// Whether all checks were made.
    pub whole: bool,
    /// The command that prints all fixes.
    pub print_fix: String,
}

/// Renders the report for people.
pub fn findings_text(found: &[Found], style: &CheckStyle) -> String {
    match style.width {
        Some(width) => terminal(found, style, width),
        None => plain(found, style),
    }
}

/// Renders a line for each check, failures last, with reasons and commands indented below.
fn plain(found: &[Found], style: &CheckStyle) -> String {
    let mut text = String::new();
    let width = found.iter().map(|found| found.id.to_string().len()).max().unwrap_or_default();
    let mut sorted: Vec<&Found> = found.iter().collect();
    // A stable sort: the order of the list remains within each status.
    sorted.sort_by_key(|found| found.status);
    let is_shown = |found: &&&Found| !style.short || found.status >= Status::Warn;
    for own in sorted.iter().filter(is_shown) {
        let (word, color) = match own.status {
            Status::Ok => ("ok  ", 32),
            Status::Skip => ("skip", 36),
            Status::Warn => ("warn", 33),
            Status::Fail => ("FAIL", 31),
        };
        let name = own.id.to_string();
        let _ = writeln!(
            text,
            "{}  {name:width$}  {}",
            paint(word, color, style),
            one_line(&own.summary)
        );
        let is_wrong = own.status >= Status::Warn || found.len() == 1 || style.verbose;
        for line in details(own).iter().filter(|_| is_wrong && !style.short) {
            let _ = writeln!(text, "      {line}");
        }
    }
    let count = |status| count(found, status);
    let _ = writeln!(
        text,
        "{} ok, {}, {} failed, {} skipped",
        count(Status::Ok),
        plural(count(Status::Warn), "warning"),
        count(Status::Fail),
        count(Status::Skip)
    );
    text
}

/// Returns reasons and commands, each on one line.
fn details(found: &Found) -> Vec<String> {
    let reasons = found.reasons.iter().cloned();
    let root = found.commands.root.iter().map(|line| format!("fix (root):  {line}"));
    let user = found.commands.user.iter().map(|line| format!("fix (you):   {line}"));
    reasons.chain(root).chain(user).map(|line| one_line(&line)).collect()
}

/// Renders categories, below each its problems with their fixes, and a summary.
fn terminal(found: &[Found], style: &CheckStyle, width: usize) -> String {
    let mut text = String::new();
    let mut categories: Vec<_> = found.iter().map(|found| found.category).collect();
    categories.sort();
    categories.dedup();
    for category in categories {
        let own: Vec<&Found> = found.iter().filter(|found| found.category == category).collect();
        let worst = own.iter().map(|found| match found.status {
            // A category is skipped only if all of it is.
            Status::Skip => Status::Skip,
            status => status,
        });
        let all_skipped = own.iter().all(|found| found.status == Status::Skip);
        let worst = worst
            .filter(|status| all_skipped || *status != Status::Skip)
            .max()
            .unwrap_or(Status::Ok);
        if style.short && worst < Status::Warn {
            continue;
        }
        let fine = own.iter().filter(|found| found.status == Status::Ok);
        let fine: Vec<String> = fine.map(|found| found.id.to_string()).collect();
        let line = match (&own[..], all_skipped) {
            _ if style.verbose => String::new(),
            ([first, ..], true) => one_line(&first.summary),
            _ => fine.join(", "),
        };
        let head = format!("{:11} ", format!("{category:?}"));
        wrap(&mut text, &format!("{} {head}", mark(worst, style)), 14, &line, width);
        for own in own.iter().filter(|found| style.verbose || found.status >= Status::Warn) {
            problem(&mut text, own, style, width);
        }
    }
    text.push('\n');
    wrap(&mut text, "", 0, &summary(found, style), width);
    if found.iter().any(|found| !found.commands.root.is_empty() || !found.commands.user.is_empty())
        && !style.short
    {
        wrap(&mut text, "", 0, &format!("All fixes: {}   Details: -v", style.print_fix), width);
    }
    text
}

/// Renders a check with its reasons, its fixes and its documentation.
fn problem(text: &mut String, found: &Found, style: &CheckStyle, width: usize) {
    let head = format!("  {} {}: ", mark(found.status, style), found.id);
    wrap(text, &head, 4, &one_line(&found.summary), width);
    if style.short || (found.status < Status::Warn && found.reasons.is_empty()) {
        return;
    }
    for reason in &found.reasons {
        wrap(text, "    ", 4, &one_line(reason), width);
    }
    // A command is never broken: it is to be pasted.
    for (whose, commands) in [("fix (root):", &found.commands.root), ("fix:", &found.commands.user)]
    {
        for command in commands {
            let _ = writeln!(text, "    {whose:11} {}", one_line(command));
        }
    }
    if found.status >= Status::Warn {
        let _ = writeln!(text, "    {BASE_URL}/{DOCS}#{}", found.id);
    }
}

/// Says whether rootless Docker will work.
fn summary(found: &[Found], style: &CheckStyle) -> String {
    let (failed, warnings) = (count(found, Status::Fail), count(found, Status::Warn));
    let (problems, warnings) = (plural(failed, "problem"), plural(warnings, "warning"));
    match (failed, style.whole) {
        (0, true) => format!("Rootless Docker will work. {warnings}."),
        (_, true) => format!("Rootless Docker will not work. {problems}, {warnings}."),
        (_, false) => format!("{}, {problems}, {warnings}.", plural(found.len(), "check")),
    }
}

fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn mark(status: Status, style: &CheckStyle) -> String {
    match status {
        Status::Ok => paint("✓", 32, style),
        Status::Skip => paint("-", 36, style),
        Status::Warn => paint("!", 33, style),
        Status::Fail => paint("✗", 31, style),
    }
}

fn paint(word: &str, color: u32, style: &CheckStyle) -> String {
    match style.colored {
        true => format!("\u{1b}[{color}m{word}\u{1b}[0m"),
        false => word.to_owned(),
    }
}

/// Removes line breaks and other control characters: the text may quote programs and files of
/// others, and neither a script nor a terminal must take that for orders.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Writes `line` behind `head` in lines of at most `width` columns, the later ones indented; longer
/// words stay whole.
fn wrap(text: &mut String, head: &str, indent: usize, line: &str, width: usize) {
    let visible = head.replace("\u{1b}[0m", "");
    let escape = visible.find('\u{1b}').map_or(0, |_| 5);
    let mut column = visible.chars().count() - escape;
    text.push_str(head);
    let mut is_first = true;
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if !is_first && column + 1 + length > width {
            let _ = write!(text, "\n{:indent$}", "");
            (column, is_first) = (indent, true);
        }
        if !is_first {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
        is_first = false;
    }
    let end = text.trim_end_matches(' ').len();
    text.truncate(end);
    text.push('\n');
}

fn count(found: &[Found], status: Status) -> usize {
    found.iter().filter(|found| found.status == status).count()
}

/// Renders the object for programs.
pub fn findings_json(found: &[Found], evidence: &Evidence<'_>) -> Vec<u8> {
    let checks: Vec<Value> = found
        .iter()
        .map(|found| {
            json!({
                "name": found.id,
                "category": found.category,
                "status": found.status,
                "summary": found.summary,
                "reason": found.reasons.join("; "),
                "fix": found.commands,
                "docs": format!("{DOCS}#{}", found.id),
            })
        })
        .collect();
    let (tools, survey) = (&evidence.host.tools, evidence.survey);
    json_line(json!({
        "schema": SCHEMA,
        "host": {
            "os": survey.release.pretty_name,
            "kernel": survey.kernel,
            "user": survey.account.name,
            "uid": survey.account.uid,
            "rootlesskit": tool(&tools.rootlesskit, evidence.rootlesskit_version()),
            "dockerd": tool(&tools.dockerd, evidence.dockerd_version()),
        },
        "checks": checks,
        "counts": {
            "ok": count(found, Status::Ok),
            "warn": count(found, Status::Warn),
            "fail": count(found, Status::Fail),
            "skip": count(found, Status::Skip),
        },
    }))
}

fn tool<T>(tool: &Tool<T>, version: Option<Version>) -> Value {
    tool.path().map_or(Value::Null, |path| {
        json!({
            "path": path.to_string_lossy(),
            "version": version.map(|version| version.to_string()),
        })
    })
}

/// Renders the commands of one side, each group below the name of its check. Where nothing is wrong,
/// a command is only an option, and not for a script of fixes.
fn script(found: &[Found], commands: fn(&Found) -> &[String]) -> String {
    let mut script = String::new();
    for found in found.iter().filter(|found| found.status >= Status::Warn) {
        if !commands(found).is_empty() {
            let _ = writeln!(script, "# {}: {}", found.id, one_line(&found.summary));
        }
        for command in commands(found) {
            let _ = match command.split('\n').all(|line| one_line(line) == line) {
                true => writeln!(script, "{command}"),
                // A terminal takes such characters for its own, also where a script is pasted.
                false => writeln!(script, "# with control characters: {}", one_line(command)),
            };
        }
    }
    script
}

/// Returns a word that no line of `script` is, to end it as a here-document.
fn end_of(script: &str, word: &str) -> String {
    let mut end = word.to_owned();
    while script.lines().any(|line| line == end) {
        end.push('_');
    }
    end
}

/// Renders what `dockerd-rootless-setuptool.sh check` prints: root's commands in upstream's own
/// frame, which people and scripts know, and the user's below it.
pub fn setup_instructions(found: &[Found]) -> String {
    let root = script(found, |found| &found.commands.root);
    let user = script(found, |found| &found.commands.user);
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

/// Renders the commands that fix what was found. For both at once: to be pasted into the user's
/// shell, which runs `elevate`, such as `sudo sh -eux <<`, for root's.
pub fn fix_script(found: &[Found], whose: Whose, elevate: &str) -> String {
    let root = script(found, |found| &found.commands.root);
    let user = script(found, |found| &found.commands.user);
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

/// Lists all checks.
pub fn check_list_text() -> String {
    let names = CHECKS.iter().map(|check| check.id.to_string());
    let width = names.map(|name| name.len()).max().unwrap_or_default();
    CHECKS
        .iter()
        .map(|check| format!("{:width$}  {}\n", check.id.to_string(), check.about))
        .collect()
}

/// Lists all checks as an object.
pub fn check_list_json() -> Vec<u8> {
    let row = |check: &crate::check::Check| json!({"name": check.id, "about": check.about, "docs": format!("{DOCS}#{}", check.id)});
    json_line(json!({"schema": SCHEMA, "checks": CHECKS.iter().map(row).collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Category, Commands, Id};

    fn found(id: Id, category: Category, status: Status, root: &[&str]) -> Found {
        let root = root.iter().map(|line| (*line).to_owned()).collect();
        Found {
            id,
            category,
            status,
            summary: "x".to_owned(),
            reasons: Vec::new(),
            commands: Commands { root, user: Vec::new() },
            ignored: false,
        }
    }

    fn style(width: Option<usize>) -> CheckStyle {
        CheckStyle {
            colored: false,
            width,
            short: false,
            verbose: false,
            whole: true,
            print_fix: "dockerd-rootless check --print-fix".to_owned(),
        }
    }

    #[test]
    fn no_value_ends_a_script_or_reaches_the_terminal() {
        let commands = [
            "mkdir '/x\nROOT\ntouch pwned\n'",
            "cat >/etc/x <<'EOF'\ny\nEOF",
            "mkdir '/x\u{1b}[201~'",
        ];
        let found = [found(Id::Home, Category::Places, Status::Fail, &commands)];
        assert_eq!(
            fix_script(&found, Whose::Both, "sudo sh -eux <<"),
            "sudo sh -eux <<'ROOT_'\n\
             # home: x\n\
             mkdir '/x\nROOT\ntouch pwned\n'\n\
             cat >/etc/x <<'EOF'\ny\nEOF\n\
             # with control characters: mkdir '/x [201~'\n\
             ROOT_\n"
        );
        let framed = setup_instructions(&found);
        assert!(framed.contains("sudo sh -eux <<EOF_\n"), "{framed}");
        assert!(framed.contains("\nEOF_\n#####"), "{framed}");
        for width in [None, Some(40)] {
            let told = findings_text(&found, &style(width));
            assert!(!told.contains('\u{1b}'), "{told}");
        }
    }

    #[test]
    fn a_terminal_gets_categories_marks_and_a_verdict() {
        let mut ping = found(Id::Ping, Category::Network, Status::Warn, &["sysctl -w x=1"]);
        ping.summary = "containers cannot ping other hosts: the range excludes you".to_owned();
        let all = [
            found(Id::Subuid, Category::Identity, Status::Ok, &[]),
            ping,
            found(Id::Netfilter, Category::Network, Status::Ok, &[]),
            found(Id::Linger, Category::Service, Status::Skip, &[]),
        ];
        assert_eq!(
            findings_text(&all, &style(Some(50))),
            "✓ Identity    subuid\n\
             ! Network     netfilter\n  \
               ! ping: containers cannot ping other hosts: the\n    \
                 range excludes you\n    \
                 fix (root): sysctl -w x=1\n    \
                 https://github.com/dockerd-rootless/dockerd-rootless/blob/main/docs/checks.md#ping\n\
             - Service     x\n\
             \n\
             Rootless Docker will work. 1 warning.\n\
             All fixes: dockerd-rootless check --print-fix\n\
             Details: -v\n"
        );
    }
}
