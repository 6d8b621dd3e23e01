//! The commands that mend `/etc/subuid` and `/etc/subgid`. A line is changed in its place or made
//! a comment, which all readers know, and new ones go to the end: nothing is lost, and the
//! numbers that the commands name stay true.

use std::ffi::OsStr;
use std::ops::Range;

use crate::check::distro;
use crate::check::subids::{
    Case, END, ENOUGH, Finding, Status, SubIdLine, SubIds, TextFile, Verdict, size,
};
use crate::words;

/// useradd's first subordinate id (login.defs(5), `SUB_UID_MIN`).
const FIRST: u64 = 100_000;

/// Some programs take ids for signed numbers, so systemd advises against those above
/// (`docs/UIDS-GIDS.md` there).
const LIMIT: u64 = 1 << 31;

impl Case<'_> {
    /// Adds the commands to `finding`.
    pub(super) fn mend(&self, finding: Finding, verdict: &Verdict, lines: &[SubIdLine]) -> Finding {
        let finding = self.spare_data(finding, verdict);
        let grant = verdict.remaining.iter().map(size).sum::<u64>() < ENOUGH;
        if !grant && verdict.edits.is_empty() {
            return finding;
        }
        let (path, user) = (self.path, self.user());
        if self.evidence.survey.release.is_like("nixos") {
            return finding.because(format!(
                "NixOS writes `{path}` itself: set `users.users.{user}.autoSubUidGidRange = true`"
            ));
        }
        let mut finding = finding;
        if *self.file == TextFile::Absent {
            let create = format!("[ -e {path} ] || install -m 0644 /dev/null {path}");
            finding = finding.root(create);
        }
        if !verdict.edits.is_empty() {
            let edit = |edit: &String| format!(" -e {}", quoted(edit));
            let edits: String = verdict.edits.values().map(edit).collect();
            finding = finding.root(format!("LC_ALL=C sed -i{edits} {path}"));
        }
        if !grant {
            return finding;
        }
        match free_range(self.taken(verdict, lines)) {
            Some(ids) => self.grant(finding, &ids),
            None => finding.because(format!("there are no {ENOUGH} free ids up to {LIMIT}")),
        }
    }

    /// Data on the disk belongs to the ids of its time.
    fn spare_data(&self, finding: Finding, verdict: &Verdict) -> Finding {
        let Some(data) = self.data() else {
            return finding;
        };
        if verdict.stays_for_data {
            finding.because(format!(
                "{data}, which another range would make unreadable: this one stays until that is empty"
            ))
        } else if finding.status == Status::Fail && verdict.remaining.is_empty() {
            finding.because(format!(
                "{data}, which only the range that it was made with can read: give that one if it is known"
            ))
        } else {
            finding
        }
    }

    /// usermod does nothing if the user has these ids already.
    fn grant(&self, finding: Finding, ids: &Range<u64>) -> Finding {
        let (path, first, last) = (self.path, ids.start, ids.end - 1);
        let survey = self.evidence.survey;
        let account = &survey.account;
        let local = account.users.get(&account.uid);
        // Alpine has newuidmap without usermod, and the one of RHEL 7.6 and older has no such option;
        // accounts of a directory are none for usermod.
        let old = distro::enterprise_linux_7_minor(&survey.release, &survey.kernel)
            .is_some_and(|minor| minor <= 6);
        if let Some(name) = local.filter(|_| !old && !survey.release.is_like("alpine"))
            && account.name.as_ref() == Some(name)
        {
            let add = self.add;
            return finding.root(format!("usermod {add} {first}-{last} {}", quoted(name)));
        }
        let line = quoted(&format!("{}:{first}:{}", self.user(), size(ids)));
        let ends = match self.file {
            TextFile::Text(text) => text.is_empty() || text.ends_with('\n'),
            _ => true,
        };
        let format = if ends { r"'%s\n'" } else { r"'\n%s\n'" };
        let finding =
            finding.root(format!("grep -qxF -e {line} {path} || printf {format} {line} >>{path}"));
        if local.is_some() {
            return finding;
        }
        finding.because(format!(
            "accounts beyond `/etc/passwd` cannot be seen: {first} to {last} has to be free of their ids"
        ))
    }

    /// All ids that a new range must keep off. The user's own range in the other file is none of
    /// them: it would be the best one here.
    fn taken(&self, verdict: &Verdict, lines: &[SubIdLine]) -> Vec<Range<u64>> {
        let sister = match self.sister {
            TextFile::Text(text) => SubIds::parse(text).0,
            TextFile::Absent | TextFile::Unreadable(_) => Vec::new(),
        };
        let all = lines.iter().chain(&sister);
        let of_others = all.filter(|line| !self.is_mine(line));
        let account = &self.evidence.survey.account;
        let real = account.users.keys().chain(account.all_groups.keys());
        let real = real.chain([&account.uid, &account.gid]);
        of_others
            .filter_map(|line| line.ids.clone().ok())
            .chain(verdict.remaining.iter().cloned())
            .chain(real.map(|id| u64::from(*id)..u64::from(*id) + 1))
            .collect()
    }
}

/// The first free range, in useradd's steps.
pub(super) fn free_range(mut taken: Vec<Range<u64>>) -> Option<Range<u64>> {
    taken.retain(|ids| !ids.is_empty());
    taken.sort_by_key(|ids| ids.start);
    let mut first = FIRST;
    for ids in taken {
        if ids.start < first + ENOUGH && ids.end > first {
            first += (ids.end - first).min(LIMIT).next_multiple_of(ENOUGH);
        }
    }
    let ids = first..first + ENOUGH;
    (ids.end <= LIMIT).then_some(ids)
}

/// The command of sed that writes `line` as it is meant; `None` if it means nothing that works.
pub(super) fn rewrite(line: &SubIdLine, owner: &str) -> Option<String> {
    let ids = line.ids.as_ref().ok().filter(|ids| ids.end <= END)?;
    let strange = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    let escaped = |c| match c {
        '\\' | '/' | '&' => format!("\\{c}"),
        _ => String::from(c),
    };
    let owner: String = (!owner.contains(strange)).then(|| owner.chars().map(escaped).collect())?;
    Some(substitute(line, &format!("{owner}:{}:{}", ids.start, size(ids))))
}

/// The command of sed that makes `line` a comment.
pub(super) fn comment_out(line: &SubIdLine) -> String {
    substitute(line, "# &")
}

/// The number picks one of equal lines; the text keeps off another one, should the file change.
fn substitute(line: &SubIdLine, replacement: &str) -> String {
    let mut pattern = String::new();
    let mut strange = false;
    let trimmed = line.text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    for c in trimmed.chars() {
        let printable = c == ' ' || c.is_ascii_graphic();
        match c {
            // Bytes that cannot be pasted, or are not known.
            _ if !printable && strange => {}
            _ if !printable => pattern.push_str(r"[^ -~]\{1,\}"),
            '\\' | '.' | '[' | '*' | '^' | '$' | '/' => pattern.extend(['\\', c]),
            _ => pattern.push(c),
        }
        strange = !printable;
    }
    let number = line.number;
    format!("{number}s/^[[:space:]]*{pattern}[[:space:]]*$/{replacement}/")
}

/// The whole word in one pair of quotes, if it needs any, as a person would write it.
fn quoted(word: &str) -> String {
    if words::quote(OsStr::new(word)) == OsStr::new(word) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
