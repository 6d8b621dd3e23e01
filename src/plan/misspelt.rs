//! Finds arguments that dockerd would refuse, before anything starts: dockerd itself reads its
//! arguments as Go's pflag does, without abbreviations, and takes no positional ones.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Exit};
use crate::facts::DockerdFacts;
use crate::settings::flag_of;

/// Flags that `dockerd --help` hides, of all versions; `=` marks those with a value.
#[rustfmt::skip]
const HIDDEN: [&str; 20] = [
    "allow-nondistributable-artifacts=", "api-cors-header=", "cluster-advertise=", "cluster-store=", "cluster-store-opt=",
    "deprecated-key-path=", "disable-legacy-registry", "experimental", "g=", "graph=", "h", "help", "min-api-version=",
    "network-diagnostic-port=", "oom-score-adjust=", "r", "restart", "rootless", "v", "version",
];

/// Options of `run`, which a misspelt one may mean, too.
const OURS: [&str; 2] = ["exec", "set"];

/// Refuses the first of `args` that this dockerd does not take (exit 2), if its flags are known.
pub fn refuse_misspelt(args: &[OsString], dockerd: Option<&DockerdFacts>) -> Result<(), Error> {
    let knows_values = |facts: &&DockerdFacts| facts.flags.iter().any(|flag| flag.ends_with('='));
    let Some(facts) = dockerd.filter(knows_values) else {
        return Ok(());
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let awaits_value = match (arg.as_bytes(), flag_of(arg)) {
            (b"--", _) => return rest.next().map_or(Ok(()), |next| Err(positional(next))),
            ([b'-', b'-', ..], Some((name, value))) => {
                takes_value(facts, name, "--")? && value.is_none()
            }
            // Behind several letters, such as `-DH`, the last may have a value.
            ([b'-', letter, rest @ ..], _) => {
                takes_value(facts, &char::from(*letter).to_string(), "-")? == rest.is_empty()
            }
            _ => return Err(positional(arg)),
        };
        if awaits_value {
            rest.next();
        }
    }
    Ok(())
}

/// Whether the flag `name`, behind `dashes`, takes a value.
fn takes_value(facts: &DockerdFacts, name: &str, dashes: &str) -> Result<bool, Error> {
    let mut known = facts.flags.iter().map(String::as_str).chain(HIDDEN);
    let found = known.find(|flag| flag.trim_end_matches('=') == name);
    if let Some(flag) = found {
        return Ok(flag.ends_with('='));
    }
    let version = facts.version.map_or_else(String::new, |version| format!(" {version}"));
    let known = facts.flags.iter().map(|flag| flag.trim_end_matches('=')).chain(OURS);
    // One of ours behind dockerd's is not misspelt.
    let near = known.filter(|known| known.len() > 1 && dashes == "--" && *known != name);
    let near = near.min_by_key(|known| strsim::levenshtein(known, name));
    let hint = match near.filter(|known| strsim::levenshtein(known, name) <= 2) {
        Some(near) => format!("did you mean `--{near}`?"),
        None => "`dockerd --help` lists its options; ours come first, before any of dockerd's"
            .to_owned(),
    };
    let what = format!("dockerd{version} has no option `{dashes}{name}`");
    Err(Error::new(Exit::Usage, what).hint(hint))
}

fn positional(arg: &OsString) -> Error {
    let what = format!("`{}` is not an option, and dockerd takes nothing else", arg.display());
    Error::new(Exit::Usage, what)
        .hint("`dockerd-rootless --help` lists our commands, which come first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerds_spellings_pass_and_others_are_refused() {
        let flags =
            ["D", "H=", "data-root=", "debug", "exec-root=", "host=", "l=", "label=", "mtu="];
        let facts = DockerdFacts { version: None, flags: flags.map(str::to_owned).into() };
        let judge = |line: &str| {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let refused = refuse_misspelt(&args, Some(&facts)).err();
            refused.map(|error| (error.exit(), error.render()))
        };
        for line in [
            "",
            "--debug --data-root /x",
            "--debug=false",
            "-DH fd://",
            "-D=true -Hx",
            "-H=x",
            "--label --formt",
            "-l -x",
            "--graph /x -g /y",
            "--version",
            "-v",
            "--help",
            "--",
            "--mtu -- --",
        ] {
            assert_eq!(judge(line), None, "{line}");
        }
        for (line, said) in [
            ("--formt json", "dockerd has no option `--formt`\nhint: `dockerd --help`"),
            ("--data-rot=/x", "no option `--data-rot`\nhint: did you mean `--data-root`?"),
            ("--exce", "no option `--exce`\nhint: did you mean `--exec`?"),
            ("--exec", "no option `--exec`\nhint: `dockerd --help`"),
            ("--debug on", "`on` is not an option"),
            ("-- x", "`x` is not an option"),
            ("-d", "no option `-d`"),
            ("-", "`-` is not an option"),
            ("--deb", "no option `--deb`\nhint: did you mean `--debug`?"),
        ] {
            let (exit, refused) = judge(line).expect(line);
            assert!(exit == Exit::Usage && refused.contains(said), "{line}: {refused}");
        }
        let mute = DockerdFacts { version: None, flags: vec!["mtu".to_owned()] };
        assert!(refuse_misspelt(&["x".into()], Some(&mute)).is_ok());
    }
}
