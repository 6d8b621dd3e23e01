//! Renders what `check` found: a report for a terminal, plain lines, an object, and scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::check::{CHECKS, Check, Commands, Evidence, Found, Status};
use crate::cli::output::Whose;
use crate::facts::{Tool, Version};

/// The page that describes every check, and where it is.
const DOCS: &str = "docs/checks.md";
const BASE_URL: &str = "https://github.com/dockerd-rootless/dockerd-rootless/blob/main";

/// The word, the mark and the color of each status, in their order.
const STATUSES: [(&str, &str, u8); 4] =
    [("ok  ", "✓", 32), ("skip", "-", 36), ("warn", "!", 33), ("FAIL", "✗", 31)];

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

impl CheckStyle {
    /// Colors the first `word` of `text` for a status.
    fn paint(&self, text: String, word: &str, status: Status) -> String {
        let (.., color) = STATUSES[status as usize];
        if self.colored { paint(&text, word, color) } else { text }
    }
}

/// Colors the first `word` of `text`.
pub fn paint(text: &str, word: &str, color: u8) -> String {
    text.replacen(word, &format!("\u{1b}[{color}m{word}\u{1b}[0m"), 1)
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
    let width = found.iter().map(|own| own.id.to_string().len()).max().unwrap_or_default();
    let mut sorted: Vec<&Found> = found.iter().collect();
    sorted.sort_by_key(|own| own.status);
    for own in sorted {
        let is_wrong = own.status >= Status::Warn;
        if style.short && !is_wrong {
            continue;
        }
        let (word, ..) = STATUSES[own.status as usize];
        let line = format!("{word}  {:width$}  {}\n", own.id.to_string(), one_line(&own.summary));
        text += &style.paint(line, word, own.status);
        if !style.short && (is_wrong || found.len() == 1 || style.verbose) {
            let reasons = own.reasons.iter().map(|reason| one_line(reason));
            let lines = reasons.chain(fixes(own)).map(|line| format!("      {line}\n"));
            text.extend(lines);
        }
    }
    let [ok, skip, warn, fail] = counts(found);
    text + &format!("{ok} ok, {}, {fail} failed, {skip} skipped\n", plural(warn, "warning"))
}

/// Renders categories, below each its problems with their fixes, and a summary.
fn terminal(found: &[Found], style: &CheckStyle, width: usize) -> String {
    let mut text = String::new();
    let mut sorted: Vec<&Found> = found.iter().collect();
    sorted.sort_by_key(|own| own.category);
    for own in sorted.chunk_by(|one, other| one.category == other.category) {
        // A category is skipped only if all of it is.
        let tried = own.iter().map(|own| own.status).filter(|status| *status != Status::Skip);
        let worst = tried.max().unwrap_or(Status::Skip);
        if style.short && worst < Status::Warn {
            continue;
        }
        let fine = own.iter().filter(|own| own.status == Status::Ok);
        let line = match worst {
            _ if style.verbose => String::new(),
            Status::Skip => one_line(&own[0].summary),
            _ => fine.map(|own| own.id.to_string()).collect::<Vec<_>>().join(", "),
        };
        let (_, mark, _) = STATUSES[worst as usize];
        let head = format!("{mark} {:11} ", format!("{:?}", own[0].category));
        text += &style.paint(wrap(&head, 14, &line, width), mark, worst);
        for own in own.iter().filter(|own| style.verbose || own.status >= Status::Warn) {
            text += &problem(own, style, width);
        }
    }
    text += "\n";
    text += &wrap("", 0, &summary(found, style), width);
    if !style.short && found.iter().any(|own| !fixes(own).is_empty()) {
        let line = format!("All fixes: {}   Details: -v", style.print_fix);
        text += &wrap("", 0, &line, width);
    }
    text
}

/// Renders a check with its reasons, its fixes and its documentation.
fn problem(own: &Found, style: &CheckStyle, width: usize) -> String {
    let (_, mark, _) = STATUSES[own.status as usize];
    let text = wrap(&format!("  {mark} {}: ", own.id), 4, &one_line(&own.summary), width);
    let mut text = style.paint(text, mark, own.status);
    if style.short {
        return text;
    }
    text.extend(own.reasons.iter().map(|reason| wrap("    ", 4, &one_line(reason), width)));
    // A command is pasted: it is never broken.
    text.extend(fixes(own).iter().map(|line| format!("    {line}\n")));
    if own.status >= Status::Warn {
        let _ = writeln!(text, "    {BASE_URL}/{DOCS}#{}", own.id);
    }
    text
}

fn fixes(own: &Found) -> Vec<String> {
    let root = own.commands.root.iter().map(|line| format!("fix (root):  {line}"));
    let user = own.commands.user.iter().map(|line| format!("fix (you):   {line}"));
    root.chain(user).map(|line| one_line(&line)).collect()
}

/// Says whether rootless Docker will work.
fn summary(found: &[Found], style: &CheckStyle) -> String {
    let [.., warnings, failed] = counts(found);
    let (problems, warnings) = (plural(failed, "problem"), plural(warnings, "warning"));
    match (failed, style.whole) {
        (0, true) => format!("Rootless Docker will work. {warnings}."),
        (_, true) => format!("Rootless Docker will not work. {problems}, {warnings}."),
        (_, false) => format!("{}, {problems}, {warnings}.", plural(found.len(), "check")),
    }
}

/// Counts things.
pub fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Counts the checks of each status.
fn counts(found: &[Found]) -> [usize; 4] {
    found.iter().fold([0; 4], |mut counts, own| {
        counts[own.status as usize] += 1;
        counts
    })
}

/// Removes line breaks and other control characters: the text may quote programs and files of
/// others, and neither a script nor a terminal must take that for orders.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Writes `line` behind `head` in lines of at most `width` columns, the later ones indented; longer
/// words stay whole.
pub fn wrap(head: &str, indent: usize, line: &str, width: usize) -> String {
    let mut text = head.to_owned();
    let mut column = head.chars().count();
    let mut separator = "";
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if !separator.is_empty() && column + 1 + length > width {
            let _ = write!(text, "\n{:indent$}", "");
            (column, separator) = (indent, "");
        }
        text = text + separator + word;
        column += separator.len() + length;
        separator = " ";
    }
    text.trim_end_matches(' ').to_owned() + "\n"
}

/// Renders the object for programs.
pub fn findings_json(found: &[Found], evidence: &Evidence<'_>) -> Value {
    let check = |own: &Found| {
        json!({
            "name": own.id,
            "category": own.category,
            "status": own.status,
            "summary": own.summary,
            "reason": own.reasons.join("; "),
            "fix": own.commands,
            "docs": format!("{DOCS}#{}", own.id),
        })
    };
    let (tools, survey) = (&evidence.host.tools, evidence.survey);
    let [ok, skip, warn, fail] = counts(found);
    json!({
        "host": {
            "os": survey.release.pretty_name,
            "kernel": survey.kernel,
            "user": survey.account.name,
            "uid": survey.account.uid,
            "rootlesskit": tool_json(&tools.rootlesskit, |facts| facts.version),
            "dockerd": tool_json(&tools.dockerd, |facts| facts.version),
        },
        "checks": found.iter().map(check).collect::<Vec<_>>(),
        "counts": {"ok": ok, "warn": warn, "fail": fail, "skip": skip},
    })
}

/// Returns where a program is, its version, and why it is unknown.
pub fn tool_json<T>(tool: &Tool<T>, version: fn(&T) -> Option<Version>) -> Value {
    let Some(path) = tool.path() else {
        return Value::Null;
    };
    let version = tool.known().and_then(version).map(|version| version.to_string());
    let mut object = json!({"path": path.to_string_lossy(), "version": version});
    if let Tool::Unknown { why, .. } = tool {
        object["unknown"] = why.as_str().into();
    }
    object
}

/// Renders commands, each group below the name of its check. Where nothing is wrong, a command is
/// only an option, and not for a script of fixes.
fn script(found: &[Found], commands: fn(&Commands) -> &[String]) -> String {
    let mut script = String::new();
    for own in found.iter().filter(|own| own.status >= Status::Warn) {
        let commands = commands(&own.commands);
        if !commands.is_empty() {
            let _ = writeln!(script, "# {}: {}", own.id, one_line(&own.summary));
        }
        for command in commands {
            let _ = match command.replace('\n', "").contains(char::is_control) {
                // A terminal takes such characters for its own, also where a script is pasted.
                true => writeln!(script, "# with control characters: {}", one_line(command)),
                false => writeln!(script, "{command}"),
            };
        }
    }
    script
}

/// Returns root's script and the user's.
fn scripts(found: &[Found]) -> (String, String) {
    (script(found, |commands| &commands.root), script(found, |commands| &commands.user))
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
    let (root, user) = scripts(found);
    if root.is_empty() {
        return user;
    }
    let end = end_of(&root, "EOF");
    // The frame's own shell reads the text first.
    let escaped = root.replace('\\', "\\\\").replace('$', "\\$").replace('`', "\\`");
    format!(
        "\n########## BEGIN ##########\nsudo sh -eux <<{end}\n{escaped}{end}\n########## END ##########\n\n{user}"
    )
}

/// Renders the commands that fix what was found. For both at once: to be pasted into the user's
/// shell, which runs `elevate`, such as `sudo sh -eux <<`, for root's.
pub fn fix_script(found: &[Found], whose: Whose, elevate: &str) -> String {
    let (root, user) = scripts(found);
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
    let row = |check: &Check| format!("{:21} {}\n", check.id.to_string(), check.about);
    CHECKS.iter().map(row).collect()
}

/// Lists all checks as an object.
pub fn check_list_json() -> Value {
    let row = |check: &Check| json!({"name": check.id, "about": check.about, "docs": format!("{DOCS}#{}", check.id)});
    json!({"checks": CHECKS.iter().map(row).collect::<Vec<_>>()})
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
            blamed: Vec::new(),
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
                 fix (root):  sysctl -w x=1\n    \
                 https://github.com/dockerd-rootless/dockerd-rootless/blob/main/docs/checks.md#ping\n\
             - Service     x\n\
             \n\
             Rootless Docker will work. 1 warning.\n\
             All fixes: dockerd-rootless check --print-fix\n\
             Details: -v\n"
        );
    }
}
