//! The user's subordinate IDs in `/etc/subuid` and `/etc/subgid`.

use std::cmp::Reverse;

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::quoted;
use crate::check::survey::{Account, Survey, TextFile};

/// What upstream demands; `nobody` (65534) of most images is among them.
const ENOUGH: u64 = 65_536;

/// The first ID that useradd(8) gives away by default.
const FIRST: u64 = 100_000;

/// A range of IDs in a line, and its owner's name or number.
#[derive(PartialEq)]
struct Range {
    line: usize,
    owner: String,
    first: u64,
    count: u64,
}

impl Range {
    fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Returns how many IDs are in both.
    fn shared(&self, other: &Range) -> u64 {
        self.end().min(other.end()).saturating_sub(self.first.max(other.first))
    }

    fn is_own(&self, account: &Account) -> bool {
        account.name.as_ref() == Some(&self.owner) || account.uid.to_string() == self.owner
    }
}

/// Reads a file (subuid(5)). What newuidmap does not understand, it skips.
fn parse(text: &str) -> Vec<Range> {
    let range = |(at, text): (usize, &str)| {
        let mut fields = text.trim().split(':');
        let owner = fields.next()?.to_owned();
        let [first, count] = [fields.next()?, fields.next()?].map(|field| field.parse::<u32>());
        let (first, count) = (first.ok()?.into(), count.ok()?.into());
        (count > 0).then_some(Range { line: at + 1, owner, first, count })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.filter_map(range).collect()
}

/// Reads what getsubids(1) prints for `owner`, lines such as `0: u 100000 65536`.
fn parse_getsubids(owner: &str, text: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.split_whitespace().rev();
        let (count, first) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Range { line: 0, owner: owner.to_owned(), first, count })
    };
    text.lines().filter_map(range).collect()
}

/// Returns the ranges of getsubids if it answered, else those of the file.
fn read(
    survey: &Survey,
    file: &TextFile,
    getsubids: Option<&Result<String, String>>,
) -> Vec<Range> {
    match (getsubids, file) {
        (Some(Ok(text)), _) => parse_getsubids(&survey.account.display_name(), text),
        (None, TextFile::Text(text)) => parse(text),
        _ => Vec::new(),
    }
}

/// Returns the first ID and the count of each range that rootlesskit would map.
pub fn own_ranges(
    survey: &Survey,
    file: &TextFile,
    getsubids: Option<&Result<String, String>>,
) -> Vec<(u32, u32)> {
    let ranges = read(survey, file, getsubids.filter(|answer| answer.is_ok()));
    let own = ranges.into_iter().filter(|range| range.is_own(&survey.account));
    own.filter_map(|range| Some((range.first.try_into().ok()?, range.count.try_into().ok()?)))
        .collect()
}

/// One of the two files.
struct Case<'a> {
    evidence: &'a Evidence<'a>,
    path: &'static str,
    /// `user` or `group`.
    what: &'static str,
    /// The option of usermod(8).
    add: &'static str,
    file: &'a TextFile,
    /// The other file: a range is proposed that is free in both.
    other: &'a TextFile,
    getsubids: Option<&'a Result<String, String>>,
}

/// `subuid`.
pub fn subuid(evidence: &Evidence<'_>) -> Finding {
    let (file, other) = (&evidence.survey.subuid, &evidence.survey.subgid);
    let (path, what, add) = ("/etc/subuid", "user", "--add-subuids");
    let getsubids = evidence.trials.getsubids_uid.as_ref();
    Case { evidence, path, what, add, file, other, getsubids }.judge()
}

/// `subgid`.
pub fn subgid(evidence: &Evidence<'_>) -> Finding {
    let (file, other) = (&evidence.survey.subgid, &evidence.survey.subuid);
    let (path, what, add) = ("/etc/subgid", "group", "--add-subgids");
    let getsubids = evidence.trials.getsubids_gid.as_ref();
    Case { evidence, path, what, add, file, other, getsubids }.judge()
}

impl Case<'_> {
    fn judge(&self) -> Finding {
        let Self { path, what, file, .. } = self;
        let survey = self.evidence.survey;
        let name = survey.account.display_name();
        let source = survey.subid_source.as_deref();
        match (source, file, self.getsubids) {
            (None, TextFile::Unreadable(why), _) => {
                return Finding::problem(format!("`{path}` cannot be read: {why}"))
                    .root(format!("chmod 0644 {path}"));
            }
            (Some(source), _, None) => {
                return Finding::skip(format!(
                    "the {what} IDs come from {source} (nsswitch.conf), and getsubids is not installed"
                ));
            }
            _ => {}
        }
        let ranges = read(survey, file, self.getsubids.filter(|_| source.is_some()));
        let (own, others): (Vec<&Range>, Vec<&Range>) =
            ranges.iter().partition(|range| range.is_own(&survey.account));
        let count: u64 = own.iter().map(|range| range.count).sum();
        let place = source.unwrap_or(path);
        if own.is_empty() {
            let finding = Finding::problem(format!("`{place}` has no line for `{name}`"));
            return self.grant(finding, &ranges);
        }
        if let Some((kept, twice)) = overlap(&own) {
            let works = self.evidence.trials.rootlesskit.works();
            let report = if works { Finding::warn } else { Finding::problem };
            let finding = report(format!(
                "two ranges of `{name}` in `{place}` overlap: {} and {}",
                kept.first, twice.first
            ));
            return self.drop(finding, twice);
        }
        if count < ENOUGH {
            let finding = Finding::problem(format!(
                "`{name}` has {count} subordinate {what} IDs instead of {ENOUGH}"
            ));
            return self.grant(finding, &ranges);
        }
        let shared = own.iter().flat_map(|range| others.iter().map(move |other| (*range, *other)));
        if let Some((range, other)) =
            shared.into_iter().find(|(range, other)| range.shared(other) > 0)
        {
            let finding = Finding::warn(format!(
                "`{name}` shares {} of its {what} IDs with `{}`",
                range.shared(other),
                other.owner
            ));
            if !survey.data_root.drivers_with_data.is_empty() {
                return finding.tell(format!(
                    "images in `{}` belong to this range: remove them before you change it",
                    survey.data_root.path.display()
                ));
            }
            return self.grant(self.drop(finding, range), &ranges);
        }
        let ranges: Vec<String> =
            own.iter().map(|range| format!("{}-{}", range.first, range.end() - 1)).collect();
        Finding::ok(format!("`{name}` has {count} subordinate {what} IDs: {}", ranges.join(", ")))
    }

    /// Turns the line of `range` into a comment.
    fn drop(&self, finding: Finding, range: &Range) -> Finding {
        match &self.evidence.survey.subid_source {
            Some(source) => finding.tell(format!("change the ranges in {source}")),
            None => finding.root(format!("sed -i '{}s/^[^#]/# &/' {}", range.line, self.path)),
        }
    }

    /// Adds a range that is free in both files.
    fn grant(&self, finding: Finding, ranges: &[Range]) -> Finding {
        let (path, survey) = (self.path, self.evidence.survey);
        let account = &survey.account;
        let name = account.display_name();
        if let Some(source) = &survey.subid_source {
            return finding.tell(format!("add {ENOUGH} IDs for `{name}` in {source}"));
        }
        if survey.release.is_like("nixos") {
            return finding.tell(format!(
                "on NixOS, set `users.users.{name}.autoSubUidGidRange = true;` in configuration.nix"
            ));
        }
        let first = self.free(ranges);
        let last = first + ENOUGH - 1;
        // Alpine has newuidmap without usermod, which does not know accounts of a directory either.
        if account.is_local && !survey.release.is_like("alpine") {
            return finding.root(format!("usermod {} {first}-{last} {}", self.add, quoted(name)));
        }
        let line = quoted(format!("{name}:{first}:{ENOUGH}"));
        finding.root(format!("grep -qxF {line} {path} || echo {line} >>{path}"))
    }

    /// Returns the first ID of a free range.
    fn free(&self, ranges: &[Range]) -> u64 {
        let Account { uid, gid, .. } = self.evidence.survey.account;
        let other = match self.other {
            TextFile::Text(text) => parse(text),
            _ => Vec::new(),
        };
        // The user's own range in the other file is the best one here.
        let account = &self.evidence.survey.account;
        let others = other.iter().filter(|range| !range.is_own(account)).chain(ranges);
        let mut taken: Vec<(u64, u64)> = others.map(|range| (range.first, range.end())).collect();
        taken.extend([uid, gid].map(|id| (id.into(), u64::from(id) + 1)));
        taken.sort_unstable();
        let mut first = FIRST;
        for (start, end) in taken {
            if start < first + ENOUGH && first < end {
                first = end;
            }
        }
        first
    }
}

/// Finds two ranges that overlap: the larger one and the other one.
fn overlap<'a>(own: &[&'a Range]) -> Option<(&'a Range, &'a Range)> {
    let mut own = own.to_vec();
    own.sort_by_key(|range| (Reverse(range.count), range.line));
    let pairs = own
        .iter()
        .enumerate()
        .flat_map(|(at, range)| own[..at].iter().map(move |kept| (*kept, *range)));
    pairs.into_iter().find(|(kept, range)| kept.shared(range) > 0)
}
