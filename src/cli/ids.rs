//! `ids`: which user of this host a user of containers is, the other way, and who owns a file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::cli::output::{Format, json_word, tell};
use crate::cli::unshare;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::parse_id_map;

#[derive(clap::Args)]
pub struct IdsOptions {
    /// Files, whose owners are translated, and IDs, which are translated both ways
    #[arg(value_name = "PATH|ID")]
    what: Vec<OsString>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Prints the map, or what it makes of files and IDs.
pub fn run(environment: &Environment, options: &IdsOptions) -> Result<Exit, Error> {
    let maps = Maps::read(environment)?;
    if options.what.is_empty() {
        let object = json!({"users": maps.users.json(), "groups": maps.groups.json()});
        let text = maps.users.table("users") + &maps.groups.table("groups");
        return tell(options.format, object, text).map(|()| Exit::Good);
    }
    let (mut objects, mut text, mut failed) = (Vec::new(), String::new(), None);
    for what in &options.what {
        match maps.translate(what) {
            Ok((object, lines)) => {
                objects.push(object);
                text += &lines;
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    tell(options.format, json!({"ids": objects}), text)?;
    failed.map_or(Ok(Exit::Good), Err)
}

/// What a user namespace maps.
struct Maps {
    users: Map,
    groups: Map,
}

impl Maps {
    /// Reads those of the daemon, or of a namespace that rootlesskit makes.
    fn read(environment: &Environment) -> Result<Self, Error> {
        let member = unshare::member(environment)?;
        let read = |name: &str| {
            let file = format!("/proc/{}/{name}", member.pid);
            let text = fs::read_to_string(&file).map_err(|error| {
                Error::new(Exit::Failed, format!("`{file}` cannot be read")).because(&error)
            })?;
            Ok(Map(parse_id_map(&text)))
        };
        Ok(Self { users: read("uid_map")?, groups: read("gid_map")? })
    }

    /// Translates an ID both ways, or the owner of a file, for programs and for people. Of a link it is
    /// the link's own.
    fn translate(&self, what: &OsStr) -> Result<(Value, String), Error> {
        let shown = what.display();
        if let Some(id) = what.to_str().and_then(|word| word.parse().ok()) {
            let host = [self.users.outside(id), self.groups.outside(id)];
            let container = [self.users.inside(id), self.groups.inside(id)];
            let object = json!({"id": id, "host": pair(host), "container": pair(container)});
            let text = format!(
                "{id} in containers is {} on this host\n{id} on this host is {} in containers\n",
                told(host, "none"),
                told(container, "nobody")
            );
            return Ok((object, text));
        }
        let found = fs::symlink_metadata(what).map_err(|error| {
            Error::new(Exit::Failed, format!("`{shown}` cannot be read")).because(&error)
        })?;
        let host = [found.uid(), found.gid()].map(u64::from);
        let container = [self.users.inside(host[0]), self.groups.inside(host[1])];
        let host = host.map(Some);
        let object = json!({
            "path": json_word(what), "host": pair(host), "container": pair(container),
        });
        let (host, container) = (told(host, "none"), told(container, "nobody"));
        Ok((object, format!("{shown}: {host} on this host, {container} in containers\n")))
    }
}

fn pair([uid, gid]: [Option<u64>; 2]) -> Value {
    json!({"uid": uid, "gid": gid})
}

fn told(ids: [Option<u64>; 2], none: &str) -> String {
    let [uid, gid] = ids.map(|id| id.map_or_else(|| none.to_owned(), |id| id.to_string()));
    format!("uid {uid}, gid {gid}")
}

/// The rows that [`parse_id_map`] reads.
struct Map(Vec<(u64, u64, u64)>);

impl Map {
    fn outside(&self, id: u64) -> Option<u64> {
        let of = |(inside, outside, count): &(u64, u64, u64)| {
            id.checked_sub(*inside).filter(|offset| offset < count).map(|offset| outside + offset)
        };
        self.0.iter().find_map(of)
    }

    fn inside(&self, id: u64) -> Option<u64> {
        let of = |(inside, outside, count): &(u64, u64, u64)| {
            id.checked_sub(*outside).filter(|offset| offset < count).map(|offset| inside + offset)
        };
        self.0.iter().find_map(of)
    }

    fn json(&self) -> Value {
        let rows = self.0.iter();
        rows.map(|(container, host, count)| {
            json!({"container": container, "host": host, "count": count})
        })
        .collect()
    }

    fn table(&self, what: &str) -> String {
        let range = |first: &u64, count: &u64| match count {
            1 => first.to_string(),
            _ => format!("{first}-{}", first + count - 1),
        };
        let line = |(inside, outside, count): &(u64, u64, u64)| {
            format!("  {:<14} {}\n", range(inside, count), range(outside, count))
        };
        let lines: String = self.0.iter().map(line).collect();
        format!("{what} in containers, and on this host:\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_translated_both_ways() {
        let map = Map(parse_id_map("0 1000 1\n1 100000 65536\nx\n"));
        for (id, host) in [(0, 1000), (1, 100_000), (1000, 100_999), (65_536, 165_535)] {
            assert_eq!(map.outside(id), Some(host));
            assert_eq!(map.inside(host), Some(id));
        }
        assert_eq!((map.outside(65_537), map.inside(0), map.inside(u64::MAX)), (None, None, None));
    }
}
