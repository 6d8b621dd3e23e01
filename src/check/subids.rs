//! The user's subordinate IDs in `/etc/subuid` and `/etc/subgid`.

use crate::check::evidence::Evidence;
use crate::check::finding::{Finding, Status};
use crate::check::fix::quoted;
use crate::check::survey::{Account, Surroundings, Survey};
use crate::facts::Version;

/// What upstream demands; `nobody` (65534) of most images is among them.
const ENOUGH: u64 = 65_536;

/// From this rootlesskit on a range may hold the user's own ID, which it leaves out (rootlesskit#623).
const OWN_ID_SINCE: Version = Version(3, 2, 0);

/// The first ID that useradd(8) gives away by default.
const FIRST: u64 = 100_000;

/// A range of IDs in a line, and its owner's name or number.
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

    fn contains(&self, id: u32) -> bool {
        (self.first..self.end()).contains(&id.into())
    }

    /// Returns the parts before and behind the ID `own`, each by its first ID and its count.
    fn without(&self, own: u32) -> [(u64, u64); 2] {
        let (id, end) = (u64::from(own), self.end());
        match self.contains(own) {
            true => [(self.first, id - self.first), (id + 1, end - id - 1)],
            false => [(self.first, self.count), (end, 0)],
        }
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    fn is_own(&self, account: &Account) -> bool {
        account.name.as_ref() == Some(&self.owner) || account.uid.to_string() == self.owner
    }
}

/// Reads lines such as `u:100000:65536` (subuid(5)) or `0: u 100000 65536` (getsubids(1)). What
/// newuidmap does not understand, it skips.
fn parse(text: &str) -> Vec<Range> {
    let range = |(at, line): (usize, &str)| {
        let mut fields = line.trim().split([':', ' ']).rev();
        let count = fields.next()?.parse::<u32>().ok().filter(|count| *count > 0)?.into();
        let first = fields.next()?.parse::<u32>().ok()?.into();
        Some(Range { line: at + 1, owner: fields.next()?.to_owned(), first, count })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.filter_map(range).collect()
}

/// The text of a file, or why it cannot be read.
type File = Result<String, String>;

fn read(file: &File) -> Vec<Range> {
    file.as_deref().map_or_else(|_| Vec::new(), parse)
}

/// Returns the first ID and the count of each range that rootlesskit would map beside the user's ID.
pub fn own_ranges(
    survey: &Survey,
    file: &File,
    getsubids: Option<&str>,
    id: u32,
) -> Vec<(u32, u32)> {
    let ranges = getsubids.map_or_else(|| read(file), parse);
    let own = ranges.iter().filter(|range| range.is_own(&survey.account));
    let parts = own.flat_map(|range| range.without(id)).filter(|(_, count)| *count > 0);
    parts
        .filter_map(|(first, count)| Some((first.try_into().ok()?, count.try_into().ok()?)))
        .collect()
}

/// `subuid`.
pub fn subuid(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let getsubids = &evidence.trials.getsubids_uid;
    let kind = ("user", "/etc/subuid", "--add-subuids");
    let finding = judge(evidence, kind, &survey.subuid, getsubids);
    if finding.status != Status::Ok {
        return finding;
    }
    finding.because("`dockerd-rootless ids PATH` shows which user of containers owns a file, and `dockerd-rootless unshare -- chown 999:999 PATH` changes the owner as containers see it")
}

/// `subgid`.
pub fn subgid(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let getsubids = &evidence.trials.getsubids_gid;
    judge(evidence, ("group", "/etc/subgid", "--add-subgids"), &survey.subgid, getsubids)
}

/// What the IDs are of, their file, and the option of usermod(8) that adds some.
type Kind = (&'static str, &'static str, &'static str);

fn judge(evidence: &Evidence<'_>, kind: Kind, file: &File, getsubids: &Option<String>) -> Finding {
    let survey = evidence.survey;
    let (what, path, _) = kind;
    let name = survey.account.display_name();
    let source = survey.subid_source.as_deref();
    let ranges = match (source, getsubids, file) {
        (None, _, Ok(text)) | (Some(_), Some(text), _) => parse(text),
        (None, _, Err(why)) => {
            return Finding::problem(format!("`{path}` cannot be read: {why}"));
        }
        (Some(source), ..) => {
            return Finding::skip(format!(
                "the {what} IDs come from {source} (nsswitch.conf), and getsubids does not list them"
            ));
        }
    };
    let map = map_of(survey, what);
    let fails = |what: String| grant(evidence, kind, Finding::problem(what));
    let own: Vec<&Range> = ranges.iter().filter(|range| range.is_own(&survey.account)).collect();
    let count: u64 = own.iter().map(|range| range.count).sum();
    if own.is_empty() {
        let place = source.unwrap_or(path);
        return fails(format!("`{place}` has no line for `{name}`"));
    }
    if let Some(range) = own.iter().find(|range| !is_within((range.first, range.end()), map)) {
        let shown = map.iter().map(|(first, _, count)| format!("{first}-{}", first + count - 1));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let (first, last) = (range.first, range.end() - 1);
        return fails(format!(
            "the {what} IDs {first}-{last} of `{name}` do not exist in this user namespace, which has {shown}"
        ));
    }
    // Of those in this namespace, root's and the user's own are not subordinate.
    let there: u64 = map.iter().map(|(.., count)| count).sum();
    let enough = if map.is_empty() { ENOUGH } else { ENOUGH.min(there.saturating_sub(2)) };
    if count < enough {
        return fails(format!("`{name}` has {count} subordinate {what} IDs instead of {enough}"));
    }
    let id = if what == "user" { survey.account.uid } else { survey.account.gid };
    let cannot_cut = evidence.rootlesskit_version().is_some_and(|own| own < OWN_ID_SINCE);
    if let Some(range) = own.iter().find(|range| range.contains(id)).filter(|_| cannot_cut) {
        let shown = format!("{}-{}", range.first, range.end() - 1);
        let place = source.unwrap_or(path);
        return fails(format!("`{name}` has the {what} IDs {shown}, which contain its own, {id}"))
            .because(format!("rootlesskit maps such a range from {OWN_ID_SINCE} on"))
            .tell(format!("remove that range from `{place}`"));
    }
    let clash = own.iter().find_map(|range| {
        let is_in = |other: &&Range| other.line != range.line && range.overlaps(other);
        Some((*range, ranges.iter().find(is_in)?))
    });
    if let Some((range, other)) = clash.filter(|_| source.is_none()) {
        // rootlesskit drops exact repetitions from 1.1.1 on.
        let fails = other.owner == range.owner && !evidence.trials.rootlesskit.works();
        let report = if fails { Finding::problem } else { Finding::warn };
        let (first, second, owner) = (range.line, other.line, &other.owner);
        return report(format!("lines {first} and {second} (`{owner}`) of `{path}` overlap"))
            .tell("change one of them; images that are there already belong to the present range");
    }
    let shown = own.iter().map(|range| format!("{}-{}", range.first, range.end() - 1));
    let shown = shown.collect::<Vec<_>>().join(", ");
    Finding::ok(format!("`{name}` has {count} subordinate {what} IDs: {shown}"))
}

/// The ranges of IDs of a user namespace, as in `/proc/self/uid_map`.
type Map = [(u64, u64, u64)];

/// The IDs of a user, or of a group, that exist here.
fn map_of<'a>(survey: &'a Survey, what: &str) -> &'a Map {
    let Surroundings { uids, gids, .. } = &survey.surroundings;
    if what == "user" { uids } else { gids }
}

/// Whether the IDs from `start` to before `end` exist here; the kernel joins no ranges of a map.
fn is_within((start, end): (u64, u64), map: &Map) -> bool {
    let holds = |(first, _, count): &(u64, u64, u64)| *first <= start && end <= first + count;
    map.is_empty() || map.iter().any(holds)
}

/// Returns the lines that give a user all IDs of this user namespace but root's and their own.
fn lines_for(name: &str, own: u32, map: &Map) -> String {
    let own = u64::from(own);
    let free = map.iter().flat_map(|(first, _, count)| {
        let end = first + count;
        [((*first).max(1), end.min(own)), ((*first).max(own + 1), end)]
    });
    let lines = free
        .filter(|(first, end)| first < end)
        .map(|(first, end)| format!("`{name}:{first}:{}`", end - first));
    lines.collect::<Vec<_>>().join(" and ")
}

/// Adds a range that is free in both files.
fn grant(evidence: &Evidence<'_>, (what, path, option): Kind, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let name = survey.account.display_name();
    if let Some(source) = &survey.subid_source {
        return finding.tell(format!("add {ENOUGH} IDs for `{name}` in {source}"));
    }
    if survey.release.is_like("nixos") {
        return finding.tell(format!(
            "on NixOS, set `users.users.{name}.autoSubUidGidRange = true;` in configuration.nix"
        ));
    }
    let first = free(survey);
    let last = first + ENOUGH - 1;
    let map = map_of(survey, what);
    if !is_within((first, last + 1), map) {
        let own = if what == "user" { survey.account.uid } else { survey.account.gid };
        return finding.tell(match lines_for(&name, own, map) {
            lines if lines.is_empty() => "start Docker outside of this user namespace".to_owned(),
            lines => format!("in the image's `{path}`, give `{name}` the lines {lines}"),
        });
    }
    // Alpine has newuidmap without usermod, which does not know accounts of a directory either.
    if survey.account.is_local && !survey.release.is_like("alpine") {
        return finding.root(format!("usermod {option} {first}-{last} {}", quoted(name)));
    }
    let line = quoted(format!("{name}:{first}:{ENOUGH}"));
    finding.root(format!("grep -qxF {line} {path} || echo {line} >>{path}"))
}

/// Returns the first ID of a range that is free in both files.
fn free(survey: &Survey) -> u64 {
    let ranges = [&survey.subuid, &survey.subgid].into_iter().flat_map(read);
    let mut taken: Vec<(u64, u64)> = ranges.map(|range| (range.first, range.end())).collect();
    let own = [survey.account.uid, survey.account.gid];
    taken.extend(own.map(|id| (id.into(), u64::from(id) + 1)));
    taken.sort_unstable();
    let mut first = FIRST;
    for (start, end) in taken {
        if start < first + ENOUGH && first < end {
            first = end;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_id_is_cut_out_of_a_range() {
        let range = Range { line: 1, owner: "u".to_owned(), first: 10, count: 5 };
        for (id, parts) in [
            (9, [(10, 5), (15, 0)]),
            (10, [(10, 0), (11, 4)]),
            (12, [(10, 2), (13, 2)]),
            (14, [(10, 4), (15, 0)]),
            (15, [(10, 5), (15, 0)]),
        ] {
            assert_eq!(range.without(id), parts, "{id}");
        }
    }
}
