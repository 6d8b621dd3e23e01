//! Finds arguments that dockerd would refuse, before anything starts: dockerd itself reads its
//! arguments as Go's pflag does, without abbreviations, and takes no positional ones.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Exit};
use crate::facts::DockerdFacts;

/// Flags that `dockerd --help` hides, of all versions; `=` marks those with a value.
#[rustfmt::skip]
const HIDDEN: [&str; 20] = [
    "allow-nondistributable-artifacts=", "api-cors-header=", "cluster-advertise=", "cluster-store=", "cluster-store-opt=",
    "deprecated-key-path=", "disable-legacy-registry", "experimental", "g=", "graph=", "h", "help", "min-api-version=",
    "network-diagnostic-port=", "oom-score-adjust=", "r", "restart", "rootless", "v", "version",
];

/// Refuses the first of `args` that this dockerd does not take (exit 2), if its flags are known.
pub fn refuse_misspelt(args: &[OsString], dockerd: Option<&DockerdFacts>) -> Result<(), Error> {
    let Some(facts) = dockerd.filter(|facts| facts.flags.iter().any(|flag| flag.ends_with('=')))
    else {
        return Ok(());
    };
    let mut rest = args.iter().map(|arg| arg.as_bytes());
    while let Some(arg) = rest.next() {
        let awaits_value = match arg {
            b"--" => match rest.next() {
                Some(next) => return Err(positional(next)),
                None => return Ok(()),
            },
            [b'-', b'-', name @ ..] => {
                let equals = name.iter().position(|byte| *byte == b'=');
                let name = String::from_utf8_lossy(&name[..equals.unwrap_or(name.len())]);
                let has_value = takes_value(facts, &name);
                has_value.ok_or_else(|| unknown(facts, &format!("--{name}")))? && equals.is_none()
            }
            [b'-', letters @ ..] if !letters.is_empty() => cluster_awaits_value(facts, letters)?,
            _ => return Err(positional(arg)),
        };
        if awaits_value {
            rest.next();
        }
    }
    Ok(())
}

/// Whether the value of short flags such as `-DH` is the next argument.
fn cluster_awaits_value(facts: &DockerdFacts, letters: &[u8]) -> Result<bool, Error> {
    for (at, letter) in letters.iter().enumerate() {
        let letter = char::from(*letter).to_string();
        let is_last = at + 1 == letters.len();
        match takes_value(facts, &letter) {
            None => return Err(unknown(facts, &format!("-{letter}"))),
            Some(true) => return Ok(is_last),
            Some(false) if letters.get(at + 1) == Some(&b'=') => return Ok(false),
            Some(false) => {}
        }
    }
    Ok(false)
}

/// Whether the flag `name` takes a value; `None` if there is no such flag.
fn takes_value(facts: &DockerdFacts, name: &str) -> Option<bool> {
    let mut known = facts.flags.iter().map(String::as_str).chain(HIDDEN);
    known.find(|flag| flag.trim_end_matches('=') == name).map(|flag| flag.ends_with('='))
}

fn unknown(facts: &DockerdFacts, flag: &str) -> Error {
    let version = facts.version.map_or_else(String::new, |version| format!(" {version}"));
    let long =
        facts.flags.iter().map(|flag| flag.trim_end_matches('=')).filter(|flag| flag.len() > 1);
    let near = long
        .map(|known| (strsim::levenshtein(known, flag.trim_start_matches('-')), known))
        .filter(|(distance, _)| *distance <= 2 && flag.starts_with("--"))
        .min();
    let hint = match near {
        Some((_, near)) => format!("did you mean `--{near}`?"),
        None => "`dockerd --help` lists its options; ours come first, before any of dockerd's"
            .to_owned(),
    };
    Error::new(Exit::Usage, format!("dockerd{version} has no option `{flag}`")).hint(hint)
}

fn positional(arg: &[u8]) -> Error {
    let arg = String::from_utf8_lossy(arg);
    Error::new(Exit::Usage, format!("`{arg}` is not an option, and dockerd takes nothing else"))
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
            ("--debug on", "`on` is not an option"),
            ("-- x", "`x` is not an option"),
            ("-d", "no option `-d`"),
            ("-Dq", "no option `-q`"),
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
