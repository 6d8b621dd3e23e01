//! `ids`: which user of the host a user of a container is, and the other way. `unshare`: a command
//! that works on files as containers' root does.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::cli::output::{Format, tell};
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::probe::{self, ProbeDepth};
use crate::plan;
use crate::settings::Settings;
use crate::stage::launch;
use crate::sys::process;

/// How long rootlesskit may take for its namespaces.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a user namespace maps: the first id inside, the first outside, and how many.
type Row = (u64, u64, u64);

#[derive(clap::Args)]
pub struct IdsOptions {
    /// Files, whose owners are translated, and ids, which are translated both ways
    #[arg(value_name = "PATH|ID")]
    what: Vec<OsString>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Prints the map, or what it makes of files and ids.
pub fn ids(environment: &Environment, options: &IdsOptions) -> Result<Exit, Error> {
    let (users, groups) = maps(environment)?;
    if options.what.is_empty() {
        let text = table("users", &users) + &table("groups", &groups);
        return tell(options.format, json!({"users": users, "groups": groups}), text)
            .map(|()| Exit::Good);
    }
    let (mut objects, mut text) = (Vec::new(), String::new());
    for what in &options.what {
        let named = what.display().to_string();
        match named.parse::<u64>() {
            Ok(id) => {
                let (outside, inside) = (outside(&users, id), inside(&users, id));
                text += &format!("user {id} in containers is {} on this host\n", shown(outside));
                text += &format!("uid {id} on this host is {} in containers\n", shown(inside));
                objects.push(json!({"id": id, "outside": outside, "inside": inside}));
            }
            Err(_) => {
                let found = fs::symlink_metadata(what).map_err(|error| {
                    Error::new(Exit::Failed, format!("`{named}` cannot be read")).because(&error)
                })?;
                let (uid, gid) = (u64::from(found.uid()), u64::from(found.gid()));
                let (user, group) = (inside(&users, uid), inside(&groups, gid));
                text += &format!(
                    "{named}: uid {uid} is {} in containers, gid {gid} is {}\n",
                    shown(user),
                    shown(group)
                );
                objects.push(
                    json!({"path": named, "uid": uid, "gid": gid, "user": user, "group": group}),
                );
            }
        }
    }
    tell(options.format, json!({"ids": objects}), text).map(|()| Exit::Good)
}

/// Runs `words` as root of a user namespace like the daemon's, in place of this process.
pub fn unshare(environment: &Environment, words: &[OsString]) -> Result<Exit, Error> {
    let shell = [environment.get("SHELL").unwrap_or("/bin/sh".as_ref()).to_owned()];
    let words = if words.is_empty() { &shell } else { words };
    let mut command = rootlesskit(environment)?;
    let error = command.args(words).exec();
    Err(launch::exec_error(command.get_program(), &error))
}

/// Returns rootlesskit, which needs but a command then. It makes the namespaces of the daemon: only
/// it knows all sources of subordinate ids.
fn rootlesskit(environment: &Environment) -> Result<Command, Error> {
    let person = look::person(environment);
    plan::refuse_person(&person)?;
    let settings = Settings::resolve(&layers(environment, &[])?)?;
    let host = probe::host(&settings, environment, person, ProbeDepth::Launch)?;
    let program = host.tools.rootlesskit.path().ok_or_else(|| {
        Error::new(Exit::NotFound, "rootlesskit is not installed").hint("dockerd-rootless check")
    })?;
    let mut command = Command::new(program);
    command.arg("--");
    Ok(command)
}

/// Returns the maps of users and groups.
fn maps(environment: &Environment) -> Result<(Vec<Row>, Vec<Row>), Error> {
    let read = |file: &str| {
        let mut command = rootlesskit(environment)?;
        let text = process::succeed(command.args(["cat", file]), PATIENCE).map_err(|error| {
            let what = "rootlesskit makes no user namespace";
            Error::new(Exit::Prerequisite, what).because(&error).hint("dockerd-rootless check")
        })?;
        Ok(text.lines().filter_map(row).collect())
    };
    Ok((read("/proc/self/uid_map")?, read("/proc/self/gid_map")?))
}

fn row(line: &str) -> Option<Row> {
    let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    numbers.try_into().ok().map(|[inside, outside, count]: [u64; 3]| (inside, outside, count))
}

fn outside(map: &[Row], id: u64) -> Option<u64> {
    let row = map.iter().find(|(inside, _, count)| (*inside..inside + count).contains(&id))?;
    Some(row.1 + id - row.0)
}

fn inside(map: &[Row], id: u64) -> Option<u64> {
    let row = map.iter().find(|(_, outside, count)| (*outside..outside + count).contains(&id))?;
    Some(row.0 + id - row.1)
}

fn shown(id: Option<u64>) -> String {
    id.map_or_else(|| "nobody (65534)".to_owned(), |id| id.to_string())
}

fn table(what: &str, map: &[Row]) -> String {
    let range = |first: &u64, count: &u64| match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first + count - 1),
    };
    let line = |(inside, outside, count): &Row| {
        format!("  {:<14} {}\n", range(inside, count), range(outside, count))
    };
    format!("{what} in containers, and on this host:\n{}", map.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_translated_both_ways() {
        let map: Vec<Row> =
            ["0 1000 1", "1 100000 65536", "x"].into_iter().filter_map(row).collect();
        for (id, host) in [(0, 1000), (1, 100_000), (1000, 100_999), (65_536, 165_535)] {
            assert_eq!(outside(&map, id), Some(host));
            assert_eq!(inside(&map, host), Some(id));
        }
        assert_eq!((outside(&map, 65_537), inside(&map, 0)), (None, None));
    }
}
