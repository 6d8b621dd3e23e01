//! Versions that are known to be bad, as `install/known-bad.toml` lists them: security holes, and
//! regressions that only some settings meet.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::check::evidence::Evidence;
use crate::check::finding::{Finding, Id, Status};
use crate::check::fix::Fix;
use crate::check::network;
use crate::facts::{Told, Version};
use crate::plan::Network;
use crate::settings::SourceIp;

/// The list that is built in.
pub static KNOWN: LazyLock<Known> = LazyLock::new(|| toml::from_str(TEXT).unwrap_or_default());
const TEXT: &str = include_str!("../../install/known-bad.toml");

/// After this many months a list counts as old.
pub const OLD: u64 = 3;

/// Where package managers put programs.
const PACKAGED: [&str; 7] =
    ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/bin", "/sbin", "/nix"];

/// The list and its day.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// As `2026-11-21`.
    pub date: String,
    hole: Vec<Hole>,
    regression: Vec<Regression>,
}

/// A security hole.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hole {
    program: String,
    /// The first good version of each branch; what is newer than all branches is good.
    fixed: Vec<String>,
    /// Branches such as `25.0` of which no source tells.
    #[serde(default)]
    unknown: Vec<String>,
    pub what: String,
}

/// What is bad between two versions of a program, with the settings that meet it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Regression {
    check: Id,
    severity: Status,
    program: String,
    since: Option<String>,
    before: String,
    driver: Option<String>,
    port_driver: Option<String>,
    detach_netns: Option<bool>,
    /// The user's own flag for rootlesskit that avoids it.
    unless_flag: Option<String>,
    /// The first pasta that meets it, by its date.
    pasta_since: Option<u32>,
    /// The end of the summary.
    #[serde(default)]
    verdict: String,
    what: String,
    /// The setting that avoids it, with its value.
    setting: Option<(String, String)>,
}

impl Known {
    /// Returns the holes of `program` in this version.
    pub fn holes(&self, program: &str, version: Version) -> impl Iterator<Item = &Hole> {
        let own = self.hole.iter().filter(move |hole| hole.program == program);
        own.filter(move |hole| hole.is_in(version))
    }
}

impl Hole {
    fn is_in(&self, version: Version) -> bool {
        if self.unknown.contains(&format!("{}.{}", version.0, version.1)) {
            return false;
        }
        let fixed = || self.fixed.iter().filter_map(|text| Version::find(text));
        let mut branch = fixed().filter(|fix| (fix.0, fix.1) == (version.0, version.1));
        branch.next().or(fixed().max()).is_some_and(|fix| version < fix)
    }
}

impl Regression {
    fn meets(&self, evidence: &Evidence<'_>, network: &Network) -> bool {
        let version = match &*self.program {
            "rootlesskit" => evidence.rootlesskit_version(),
            _ => evidence.dockerd_version(),
        };
        let is_named = |own: &Option<String>, word| own.as_deref().is_none_or(|own| word == own);
        version.is_some_and(|version| {
            Version::find(&self.before).is_some_and(|before| version < before)
                && self.since.as_deref().and_then(Version::find) <= Some(version)
        }) && is_named(&self.driver, network.driver.word())
            && is_named(&self.port_driver, network.port_driver.word())
            && self.detach_netns.is_none_or(|own| network.detach_netns == own)
            && self.unless_flag.as_deref().is_none_or(|flag| !evidence.flags().has(flag))
            && self.pasta_since.is_none_or(|date| pasta_date(evidence) >= Some(date))
    }
}

/// Returns how many months of 30 days lie between `date`, as `2026-11-21`, and `now`.
pub fn months_since(date: &str, now: SystemTime) -> u64 {
    let numbers: Vec<u64> = date.split('-').filter_map(|text| text.parse().ok()).collect();
    let [year, month, day] = numbers[..] else { return 0 };
    // Years begin in March, so that a leap day is a year's last.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 719_469;
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    now.duration_since(start).map_or(0, |passed| passed.as_secs() / (30 * 86_400))
}

/// Adds the known security holes of dockerd, containerd and runc to what was found of dockerd.
pub fn with_holes(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let (mut open, mut reasons) = (Vec::new(), Vec::new());
    for Told { program, path, line } in &evidence.host.tools.told {
        let Some(version) = Version::find(line) else { continue };
        for hole in KNOWN.holes(program, version) {
            let name = format!("{program} {version}");
            let is_backported = may_carry_fixes(path, line);
            let of = if is_backported { ", whose package may carry the fix" } else { "" };
            reasons.push(format!("{name} at `{}`{of}: {}", path.display(), hole.what));
            open.extend((!is_backported).then_some(name));
        }
    }
    let months = months_since(&KNOWN.date, evidence.survey.now);
    reasons.push(match months {
        ..OLD => format!("the list of known security holes is of {}", KNOWN.date),
        _ => format!(
            "the list of known security holes is {months} months old: newer ones are missing"
        ),
    });
    let mut finding = match open.is_empty() {
        true => finding,
        false => Finding::warn(format!("known security holes in {}", open.join(", "))).tell(
            "upgrade the package, or `dockerd-rootless fetch --version VERSION --sha256 SUM,SUM`",
        ),
    };
    finding.reasons.extend(reasons);
    finding
}

/// Returns whether a program is of a distribution, which fixes holes without a new version. Docker's
/// own packages are not: they say `20.10.24, build 297e128`, where Debian's say `20.10.24+dfsg1`.
fn may_carry_fixes(path: &Path, line: &str) -> bool {
    let is_dockers = line.contains("containerd.io")
        || line
            .split_once(", build ")
            .is_some_and(|(version, build)| build.len() == 7 && !version.contains(['+', '~', '-']));
    !is_dockers && PACKAGED.iter().any(|directory| path.starts_with(directory))
}

/// Adds the regressions that the host has with its network to what the check `id` found in order.
pub fn with_regressions(evidence: &Evidence<'_>, id: Id, mut finding: Finding) -> Finding {
    let mut own = KNOWN.regression.iter().filter(|own| own.check == id).peekable();
    let network = own.peek().and_then(|_| evidence.network().ok());
    let Some(network) = network.filter(|_| matches!(finding.status, Status::Ok | Status::Warn))
    else {
        return finding;
    };
    let keeps_address = evidence.settings.source_ip.value == SourceIp::Preserve;
    for own in own.filter(|own| own.meets(evidence, &network)) {
        if own.severity > finding.status {
            finding.status = own.severity;
            // It is of the summary's first part.
            let end = finding.summary.find(';').unwrap_or(finding.summary.len());
            finding.summary.insert_str(end, &format!(" {}", own.verdict));
        }
        finding = finding.because(&own.what);
        finding.fixes.extend(own.setting.as_ref().map(|(key, value)| match key.as_str() {
            // Another port driver would lose the addresses that the user wants to keep.
            "network.port-driver" if keeps_address => {
                Fix::Tell(format!("upgrade {} to {} or later", own.program, own.before))
            }
            _ => Fix::Set(key, value.clone()),
        }));
    }
    network::complete(evidence, finding)
}

/// Returns the date in pasta's version as a number such as 20241030. Upstream writes
/// `2024_10_30.ee7d0b6`, Debian `0.0~git20230309.7c7625d-1`, Fedora `0^20241030.gee7d0b6-1.fc41`.
fn pasta_date(evidence: &Evidence<'_>) -> Option<u32> {
    let version = evidence.host.tools.pasta_version.as_deref()?.replace('_', "");
    let mut runs = version.split(|c: char| !c.is_ascii_digit());
    runs.find(|run| run.len() == 8 && run.starts_with("20"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_list_is_read_and_names_versions_that_exist() {
        let known: Known = toml::from_str(TEXT).expect("a list");
        let fixed = known.hole.iter().flat_map(|hole| &hole.fixed);
        let bounds = known.regression.iter().flat_map(|own| own.since.iter().chain([&own.before]));
        for text in fixed.chain(bounds) {
            assert_eq!(Version::find(text).map(|own| own.to_string()).as_ref(), Some(text));
        }
        for own in &known.regression {
            assert!(["dockerd", "rootlesskit"].contains(&&*own.program), "{}", own.what);
            assert_eq!(own.severity == Status::Ok, own.verdict.is_empty(), "{}", own.what);
        }
    }

    #[test]
    fn a_hole_is_closed_in_each_branch_that_has_a_fix() {
        let has_hole = |program, text| {
            KNOWN.holes(program, Version::find(text).expect("a version")).next().is_some()
        };
        for (program, open, closed) in [
            ("dockerd", ["20.10.24", "29.6.2", "29.8.9"], ["29.9.0", "25.0.16", "30.0.0"]),
            ("runc", ["1.1.15", "1.2.7", "1.3.2"], ["1.2.8", "1.3.3", "1.5.0"]),
            ("containerd", ["1.7.34", "2.1.8", "2.3.4"], ["1.7.35", "2.1.9", "2.4.0"]),
        ] {
            assert_eq!(open.map(|text| has_hole(program, text)), [true; 3], "{program}");
            assert_eq!(closed.map(|text| has_hole(program, text)), [false; 3], "{program}");
        }
    }

    #[test]
    fn a_list_ages_by_the_month() {
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        // 2024-03-01 was day 19783.
        for (date, days, months) in [
            ("1970-01-01", 60, 2),
            ("2024-03-01", 19_783 + 29, 0),
            ("2024-03-01", 19_783 + 30, 1),
            ("2024-02-29", 19_783 + 29, 1),
            ("2024-03-01", 0, 0),
            ("soon", 19_783, 0),
        ] {
            assert_eq!(months_since(date, at(days)), months, "{date} at {days}");
        }
    }
}
