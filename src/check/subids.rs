//! Whether the user has subordinate ids, enough of them, and nobody else's.
//!
//! rootlesskit asks getsubids, and reads the file itself where that is absent or fails, or where
//! it does not know it yet (before 1.1.0): its `pkg/parent/{dynidtools,idtools}`. Either way
//! newuidmap consults the file once more, with shadow's parser.
//!
//! What stops a launch fails. Ids that are somebody else's too stop nothing: a warning.

mod mend;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::check::{Evidence, Finding, Status};
use crate::facts::{Flaw, Outcome, SubIdLine, SubIds, TextFile, Tool, Version};
use mend::{comment_out, rewrite};

/// What upstream demands; `nobody` (65534) of most images is among them.
const ENOUGH: u64 = 65_536;

/// A range ends before this: the last number stands for no id.
const END: u64 = u32::MAX as u64;

/// How many damaged lines of others are told one by one.
const TOLD: usize = 3;

/// Judges `/etc/subuid`.
pub fn subuid(evidence: &Evidence<'_>) -> Finding {
    let (survey, trials) = (evidence.survey, evidence.trials);
    Case {
        evidence,
        path: "/etc/subuid",
        what: "user",
        mapper: "newuidmap",
        add: "--add-subuids",
        getsubids_command: "getsubids",
        file: &survey.subuid,
        sister: &survey.subgid,
        own: survey.account.uid,
        real: &survey.account.users,
        getsubids: trials.getsubids_uid.as_ref(),
        map: &trials.uid_map,
    }
    .find()
}

/// Judges `/etc/subgid`.
pub fn subgid(evidence: &Evidence<'_>) -> Finding {
    let (survey, trials) = (evidence.survey, evidence.trials);
    Case {
        evidence,
        path: "/etc/subgid",
        what: "group",
        mapper: "newgidmap",
        add: "--add-subgids",
        getsubids_command: "getsubids -g",
        file: &survey.subgid,
        sister: &survey.subuid,
        own: survey.account.gid,
        real: &survey.account.all_groups,
        getsubids: trials.getsubids_gid.as_ref(),
        map: &trials.gid_map,
    }
    .find()
}

/// One of the two files, and what goes with it.
struct Case<'a> {
    evidence: &'a Evidence<'a>,
    path: &'static str,
    /// `user` or `group`.
    what: &'static str,
    mapper: &'static str,
    /// The option of usermod(8).
    add: &'static str,
    getsubids_command: &'static str,
    file: &'a TextFile,
    /// The other file: a range is proposed that is free in both.
    sister: &'a TextFile,
    /// The user's own id, which is mapped beside the subordinate ones.
    own: u32,
    /// The accounts or groups.
    real: &'a BTreeMap<u32, String>,
    getsubids: Option<&'a Result<String, String>>,
    map: &'a Outcome,
}

/// What is wrong.
struct Problem {
    status: Status,
    sentence: String,
    why: String,
}

/// What is wrong with the lines, and what is to be done.
#[derive(Default)]
struct Verdict {
    problems: Vec<Problem>,
    /// Commands of sed by the numbers of their lines.
    edits: BTreeMap<usize, String>,
    /// The ids that the user has, in words.
    holds: String,
    /// Those of them that remain after the edits.
    remaining: Vec<Range<u64>>,
    /// Whether a range stays only because data belongs to it.
    stays_for_data: bool,
}

impl Verdict {
    fn add(&mut self, status: Status, sentence: impl Into<String>, why: impl Into<String>) {
        self.problems.push(Problem { status, sentence: sentence.into(), why: why.into() });
    }
}

impl Case<'_> {
    fn find(&self) -> Finding {
        let lines = match self.file {
            TextFile::Text(text) => SubIds::parse(text).0,
            TextFile::Absent | TextFile::Unreadable(_) => Vec::new(),
        };
        if let Some(source) = self.elsewhere(&lines) {
            return self.find_elsewhere(&source);
        }
        if let TextFile::Unreadable(why) = self.file {
            return self.unreadable(why);
        }
        let mut verdict = self.judge(self.path, &lines);
        if !lines.iter().any(|line| self.is_mine(line)) {
            let sentence = match self.file {
                TextFile::Absent => format!("`{}` does not exist", self.path),
                _ => format!("`{}` has no line for `{}`", self.path, self.user()),
            };
            let why = format!("`rootlesskit` has no {} ids for containers", self.what);
            verdict.add(Status::Fail, sentence, why);
        }
        self.judge_damage_of_others(&mut verdict, &lines);
        self.mend(self.finding(&verdict), &verdict, &lines)
    }

    /// Where the ids come from, if not from the file (nsswitch.conf(5), `subid`).
    fn elsewhere(&self, lines: &[SubIdLine]) -> Option<String> {
        let source = &self.evidence.survey.subids_from_elsewhere;
        if let Some(source) = source {
            return Some(format!("`{source}` of `/etc/nsswitch.conf`"));
        }
        let gives = matches!(self.getsubids, Some(Ok(text)) if !self.granted(text).is_empty());
        let unknown = gives && !lines.iter().any(|line| self.is_mine(line));
        unknown.then(|| format!("another source than `{}`", self.path))
    }

    /// newuidmap asks the same source, so the file counts for nothing.
    fn find_elsewhere(&self, source: &str) -> Finding {
        let (what, user) = (self.what, self.user());
        let none = || {
            let summary = format!("`{user}` gets no subordinate {what} ids from {source}");
            let reason = format!("`{}` counts for nothing beside that source", self.path);
            Finding::fail(summary).because(reason)
        };
        match self.getsubids {
            Some(Ok(text)) if self.granted(text).is_empty() => none(),
            Some(Ok(text)) => {
                let place = format!("{} {user}", self.getsubids_command);
                let finding = self.finding(&self.judge(&place, &self.granted(text)));
                if finding.status == Status::Ok {
                    return finding;
                }
                finding.because(format!("the ids come from {source}: they are to be changed there"))
            }
            Some(Err(said)) => none().because(format!("`getsubids` said: {}", shown(said.trim()))),
            None if self.launches() => Finding::skip(format!(
                "the {what} ids come from {source}, and there is no `getsubids` to count them"
            )),
            None => self.getsubids_missing(source),
        }
    }

    /// The packages are those that rootlesskit's `docs/subid.md` names.
    fn getsubids_missing(&self, source: &str) -> Finding {
        let finding = Finding::fail(format!(
            "the {} ids come from {source}, and there is no `getsubids` to ask for them",
            self.what
        ))
        .because(format!("`rootlesskit` looks into `{}` only, then", self.path));
        let packages = [
            ("debian", "apt-get install -y uidmap"),
            ("fedora", "dnf install -y shadow-utils-subid"),
            ("alpine", "apk add shadow-subids"),
        ];
        let release = &self.evidence.survey.release;
        match packages.iter().find(|(id, _)| release.is_like(id)) {
            Some((_, install)) => finding.root(*install),
            None => finding,
        }
    }

    fn unreadable(&self, why: &str) -> Finding {
        let summary = format!("`{}` cannot be read: {why}", self.path);
        if self.launches() {
            return Finding::skip(summary);
        }
        let finding = Finding::fail(summary)
            .because("`rootlesskit` and `getsubids` read it with the user's rights");
        if why.to_lowercase().contains("permission denied") {
            return finding.root(format!("chmod 0644 {}", self.path));
        }
        finding
    }

    /// Judges the user's own lines, each by itself and against all others.
    fn judge(&self, place: &str, lines: &[SubIdLine]) -> Verdict {
        let mut verdict = Verdict::default();
        let (mine, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| self.is_mine(line));
        let mut ranges = Vec::new();
        for line in mine {
            match &line.ids {
                Ok(ids) => ranges.push((line, ids)),
                Err(_) => self.judge_form(&mut verdict, line),
            }
        }
        // Of two that overlap, the larger one is worth more.
        ranges.sort_by_key(|(line, ids)| (Reverse(size(ids)), line.number));
        let mut kept: Vec<(&SubIdLine, &Range<u64>)> = Vec::new();
        for (line, ids) in ranges {
            let rival = kept.iter().find(|(_, taken)| shared(ids, taken) > 0);
            let before = verdict.problems.len();
            self.judge_range(&mut verdict, &located(place, line), ids, rival);
            if verdict.problems.len() > before {
                verdict.edits.insert(line.number, comment_out(line));
                continue;
            }
            kept.push((line, ids));
            self.judge_claims(&mut verdict, &located(place, line), ids, &others);
            if verdict.problems.len() > before {
                if self.data().is_none() {
                    verdict.edits.insert(line.number, comment_out(line));
                    continue;
                }
                verdict.stays_for_data = true;
            }
            verdict.remaining.push(ids.clone());
            self.judge_form(&mut verdict, line);
            self.judge_owner(&mut verdict, &located(place, line), line);
        }
        self.judge_sum(&mut verdict, place, kept);
        verdict
    }

    /// Whether the range can be mapped.
    fn judge_range(
        &self,
        verdict: &mut Verdict,
        line: &str,
        ids: &Range<u64>,
        rival: Option<&(&SubIdLine, &Range<u64>)>,
    ) {
        let mapper = self.mapper;
        let refuses = format!("`{mapper}` refuses such a range");
        let twice = format!("no id can be mapped twice: `{mapper}` fails with EINVAL");
        if ids.is_empty() {
            verdict.add(Status::Fail, format!("{line} grants no ids"), refuses);
        } else if ids.end > END {
            let sentence = format!("{line} reaches beyond the last id, {}", END - 1);
            verdict.add(Status::Fail, sentence, refuses);
        } else if ids.contains(&u64::from(self.own)) {
            let sentence = format!("{line} holds the user's own id {}", self.own);
            verdict.add(Status::Fail, sentence, twice);
        } else if let Some((other, taken)) = rival {
            // rootlesskit drops exact repetitions from 1.1.1 on, if it asks getsubids.
            let (verb, status) = if *taken == ids {
                ("repeats", self.fail_unless_it_launches())
            } else {
                ("overlaps", Status::Fail)
            };
            let text = shown(&other.text);
            let sentence = format!("{line} {verb} line {}, `{text}`", other.number);
            verdict.add(status, sentence, twice);
        }
    }

    /// Whether the ids are somebody else's too.
    fn judge_claims(
        &self,
        verdict: &mut Verdict,
        line: &str,
        ids: &Range<u64>,
        others: &[&SubIdLine],
    ) {
        for other in others {
            let both = other.ids.as_ref().map_or(0, |theirs| shared(ids, theirs));
            if both > 0 {
                let (owner, text) = (shown(&other.owner), shown(&other.text));
                let number = other.number;
                verdict.add(
                    Status::Warn,
                    format!(
                        "{line} shares {both} of its ids with `{owner}` (line {number}, `{text}`)"
                    ),
                    "each of the two has rights to what lies in the other's containers",
                );
            }
        }
        let inside = |id: &u32| ids.contains(&u64::from(*id));
        let mut real = self.real.iter().filter(|(id, _)| inside(id));
        let what = self.what;
        if let Some((id, name)) = real.next() {
            let more = match real.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            verdict.add(
                Status::Warn,
                format!("{line} holds the real {what} {id}, `{name}`{more}"),
                format!("a process in a container can take on the rights of that {what}"),
            );
        } else if ids.start < ENOUGH {
            verdict.add(
                Status::Warn,
                format!("{line} holds ids below {ENOUGH}"),
                format!("the system gives those to real {what}s"),
            );
        }
    }

    fn judge_sum(
        &self,
        verdict: &mut Verdict,
        place: &str,
        mut kept: Vec<(&SubIdLine, &Range<u64>)>,
    ) {
        kept.sort_by_key(|(line, _)| line.number);
        let (user, what) = (self.user(), self.what);
        let sum: u64 = kept.iter().map(|(_, ids)| size(ids)).sum();
        let lines: Vec<_> = kept.iter().map(|(line, _)| shown(&line.text)).collect();
        let numbers: Vec<_> = kept.iter().map(|(line, _)| line.number.to_string()).collect();
        let from = format!(
            "in line{} {} of `{place}`, `{}`",
            if lines.len() == 1 { "" } else { "s" },
            numbers.join(" and "),
            lines.join("` and `")
        );
        verdict.holds = format!("`{user}` has {sum} subordinate {what} ids {from}");
        if (1..ENOUGH).contains(&sum) {
            verdict.add(
                Status::Fail,
                format!("`{user}` has {sum} subordinate {what} ids instead of {ENOUGH}, {from}"),
                "images with files of higher ids, such as `nobody` (65534), cannot be unpacked",
            );
        }
    }

    /// How a line is written.
    fn judge_form(&self, verdict: &mut Verdict, line: &SubIdLine) {
        let at = located(self.path, line);
        let fields = line.fields;
        let passes_over = || format!("`{}` passes over such a line", self.mapper);
        let whole = "`rootlesskit` refuses the whole file for it, unless `getsubids` reads it";
        let (sentence, why) = match (&line.ids, line.flaw) {
            (Ok(_), None) => return,
            (Err(why), _) if fields == 3 => (format!("{at} is damaged: {why}"), passes_over()),
            (Err(why), _) => (format!("{at} is damaged: {why}"), whole.to_owned()),
            (Ok(_), Some(Flaw::Blanks)) => (format!("{at} has blanks at its ends"), passes_over()),
            (Ok(_), Some(Flaw::Fields)) => {
                (format!("{at} has {fields} fields instead of 3"), whole.to_owned())
            }
            (Ok(_), Some(Flaw::Number)) => (
                format!("{at} holds a number that is not plainly decimal"),
                format!("`rootlesskit` and `{}` read it differently", self.mapper),
            ),
        };
        let status = if self.is_mine(line) {
            match line.flaw {
                Some(Flaw::Blanks) => Status::Fail,
                _ => self.fail_unless_it_launches(),
            }
        } else if fields != 3 && !self.asks_getsubids() {
            self.fail_unless_it_launches()
        } else {
            Status::Warn
        };
        let mended = rewrite(line, &line.owner).unwrap_or_else(|| comment_out(line));
        verdict.edits.entry(line.number).or_insert(mended);
        verdict.add(status, sentence, why);
    }

    fn judge_damage_of_others(&self, verdict: &mut Verdict, lines: &[SubIdLine]) {
        let before = verdict.problems.len();
        for line in lines.iter().filter(|line| !self.is_mine(line)) {
            self.judge_form(verdict, line);
        }
        let rest = verdict.problems.split_off(verdict.problems.len().min(before + TOLD));
        if let Some(worst) = rest.iter().max_by_key(|problem| problem.status) {
            let sentence = format!("damaged lines of `{}` beyond these: {}", self.path, rest.len());
            verdict.add(worst.status, sentence, &worst.why);
        }
    }

    /// rootlesskit 1.1.0 asks getsubids by name and by number, and the first answer of getsubids
    /// 4.13 holds lines with the number as well. 1.1.1 drops repetitions (its commit 15e2415).
    fn judge_owner(&self, verdict: &mut Verdict, at: &str, line: &SubIdLine) {
        let Some(name) = &self.evidence.survey.account.name else {
            return;
        };
        let twice = self.rootlesskit() == Some(Version(1, 1, 0)) && self.asks_getsubids();
        if twice && !self.launches() && line.owner != *name {
            verdict.add(
                Status::Fail,
                format!("{at} names the user by number"),
                "`rootlesskit` 1.1.0 gets such a line from `getsubids` twice and maps it twice, which fails with EINVAL; 1.1.1 and later do not",
            );
            let mended = rewrite(line, name).unwrap_or_else(|| comment_out(line));
            verdict.edits.insert(line.number, mended);
        }
    }

    /// The worst problem in front, the others as reasons.
    fn finding(&self, verdict: &Verdict) -> Finding {
        let mut problems: Vec<_> = verdict.problems.iter().collect();
        problems.sort_by_key(|problem| Reverse(problem.status));
        let Some(worst) = problems.first() else {
            return Finding::ok(&verdict.holds);
        };
        let mut finding = Finding::new(worst.status, &worst.sentence);
        let rest = problems[1..].iter().flat_map(|problem| [&problem.sentence, &problem.why]);
        for reason in [&worst.why].into_iter().chain(rest) {
            if !finding.reasons.contains(reason) {
                finding = finding.because(reason);
            }
        }
        match self.map.failure() {
            Some(failure) if finding.status == Status::Fail => {
                finding.because(format!("a trial ended so: {}", shown(&failure.text)))
            }
            _ => finding,
        }
    }

    /// Whether `line` is this user's: both the name and the number may stand there (subuid(5)).
    fn is_mine(&self, line: &SubIdLine) -> bool {
        let account = &self.evidence.survey.account;
        account.name.as_ref() == Some(&line.owner) || account.uid.to_string() == line.owner
    }

    fn user(&self) -> String {
        self.evidence.survey.account.shown()
    }

    fn granted(&self, getsubids: &str) -> Vec<SubIdLine> {
        SubIds::parse_getsubids(&self.user(), getsubids).0
    }

    fn rootlesskit(&self) -> Option<Version> {
        let Tool::Found { answer, .. } = &self.evidence.host.tools.rootlesskit else {
            return None;
        };
        answer.clone().known()?.version
    }

    /// Whether rootlesskit gets the ids from getsubids, and not from the file.
    fn asks_getsubids(&self) -> bool {
        let knows_it = self.rootlesskit().is_none_or(|version| version >= Version(1, 1, 0));
        knows_it && matches!(self.getsubids, Some(Ok(_)))
    }

    /// Whether rootlesskit was seen to make its namespaces with what is there.
    fn launches(&self) -> bool {
        self.evidence.trials.rootlesskit.works()
    }

    fn fail_unless_it_launches(&self) -> Status {
        if self.launches() { Status::Warn } else { Status::Fail }
    }

    /// The data that belongs to the ids that the user has or had.
    fn data(&self) -> Option<String> {
        let root = &self.evidence.survey.data_root;
        let drivers = root.drivers_with_data.join("`, `");
        let path = root.path.display();
        (!drivers.is_empty()).then(|| format!("`{path}` holds data of `{drivers}`"))
    }
}

fn size(ids: &Range<u64>) -> u64 {
    ids.end - ids.start
}

/// How many ids are in both.
fn shared(one: &Range<u64>, other: &Range<u64>) -> u64 {
    let end = one.end.min(other.end);
    end.saturating_sub(one.start.max(other.start))
}

fn located(place: &str, line: &SubIdLine) -> String {
    format!("line {} of `{place}`, `{}`,", line.number, shown(&line.text))
}

/// `text` on one line and not too long.
fn shown(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() { c.escape_default().collect() } else { c.to_string() }
    };
    let cut = if text.chars().count() > 80 { "…" } else { "" };
    text.chars().take(80).map(escaped).collect::<String>() + cut
}

#[cfg(test)]
mod tests;
