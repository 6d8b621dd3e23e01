//! A user's shell in a room: the mistake, what is said, and the hint as it is pasted.

use std::path::Path;

use test_support::room::OWN_PLACES;
use test_support::*;

/// Something that a user gets wrong. `@USER@`, `@UID@` and `@HOME@` stand for the user's.
#[derive(Clone, Copy)]
pub struct Mistake {
    pub what: &'static str,
    /// What root does to the room, in shell.
    pub root: &'static str,
    /// Files in the home.
    pub files: &'static [(&'static str, &'static str)],
    /// What the user's shell has done before.
    pub profile: &'static str,
    pub command: &'static str,
    pub code: i32,
    /// What the message names.
    pub names: &'static [&'static str],
    pub then: Then,
}

/// What comes of the hint.
#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    /// It is a command, after which the daemon starts.
    Starts,
    /// It is a command, which ends with 0 and tells what there is to know.
    Answers,
    /// It is advice, for the user has to decide, or a command that advises; it names this.
    Advice(&'static [&'static str]),
}

/// Lets the user become root without a password, by su and by a sudo that is none; what `hide` takes away,
/// `apt-get install` of its package brings back.
const TOOLS: &str = r#"sed -i 's/^root:[^:]*:/root::/' /etc/shadow
printf '#!/bin/sh\nexec su root -c '\''exec "$@"'\'' -- sh "$@"\n' >/usr/bin/sudo
cat >/usr/bin/apt-get <<'END'
#!/bin/sh
set -eu
[ "$1" = install ]
shift
for package; do
    case $package in -*) continue ;; esac
    dpkg -L "$package" | while read -r file; do [ ! -f "/mnt/hidden$file" ] || cp -a "/mnt/hidden$file" "$file"; done
done
# Links of update-alternatives belong to no package.
cd /mnt/hidden
find . -type l -exec cp -a --parents {} / \;
END
chmod 755 /usr/bin/sudo /usr/bin/apt-get
hide() {
    for name; do
        for file in /usr/bin/$name /usr/sbin/$name; do
            [ -e "$file" ] || continue
            mkdir -p "/mnt/hidden${file%/*}"
            cp -a "$file" "/mnt/hidden$file"
            rm "$file"
        done
    done
}
"#;

/// Makes each mistake, and follows the hint. All that went wrong is told at the end.
pub fn play(mistakes: &[Mistake]) {
    let wrong: Vec<String> = mistakes
        .iter()
        .filter_map(|mistake| follow(mistake).err().map(|why| format!("{}: {why}", mistake.what)))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} went wrong:\n{}",
        wrong.len(),
        mistakes.len(),
        wrong.join("\n\n")
    );
}

fn follow(mistake: &Mistake) -> Result<(), String> {
    let user = TestUser::new();
    Launcher::Run.install(&user);
    let fill = |text: &str| {
        let (uid, home) = (user.uid.to_string(), user.home.display().to_string());
        text.replace("@USER@", &user.name).replace("@UID@", &uid).replace("@HOME@", &home)
    };
    for (path, content) in mistake.files {
        user.write(&user.home.join(path), content);
    }
    let room = Room::apart(&user, &format!("{OWN_PLACES}{TOOLS}{}", fill(mistake.root)));
    let paste = |lines: &[&str]| {
        let script = [&[mistake.profile], lines].concat().join("\n");
        let mut shell = room.command("timeout");
        shell.args(["--kill-after=1", "60", "sh", "-c", &script]).current_dir(&user.home);
        Told::by(shell.env("PATH", format!("{}/bin:{}", user.home.display(), user::PATH)))
    };

    let told = paste(&[mistake.command]);
    if told.code != Some(mistake.code) {
        return Err(format!("expected {}: {told:?}", mistake.code));
    }
    if let Some(name) = mistake.names.iter().find(|name| !told.stderr.contains(&fill(name))) {
        return Err(format!("does not name `{}`: {told:?}", fill(name)));
    }
    let hint = told
        .stderr
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("hint: ").or(line.trim().strip_prefix("tip: ")));
    let command = hint.and_then(command_in);
    let wait = "dockerd-rootless status --wait=30 || { kill $pid; wait $pid; exit 99; }";
    let stop = "kill $pid; wait $pid";
    match (mistake.then, hint, command) {
        (Then::Advice(names), Some(hint), command) => {
            let answer = command.map(|command| (paste(&[&command]), command));
            let text = format!("{hint} {}", answer.as_ref().map_or("", |(told, _)| &told.stdout));
            if let Some(name) = names.iter().find(|name| !text.contains(&fill(name))) {
                return Err(format!("the hint does not name `{}`: {told:?}", fill(name)));
            }
            match answer {
                // What checks finds the mistake.
                Some((told, command)) if told.code != Some(4) => ended_well(&command, &told),
                _ => Ok(()),
            }
        }
        (Then::Answers, Some(_), Some(command)) => ended_well(&command, &paste(&[&command])),
        (Then::Starts, Some(_), Some(command)) => {
            // What prints commands has them pasted too.
            let fix = match command.contains("--print-fix") {
                true => format!("fix=$({command}) || [ $? = 4 ]\neval \"$fix\""),
                false => command.clone(),
            };
            let start = format!("{} & pid=$!", mistake.command);
            ended_well(&command, &paste(&[&fix, &start, wait, stop]))
        }
        _ => Err(format!("another hint than expected: {told:?}")),
    }
}

fn ended_well(command: &str, told: &Told) -> Result<(), String> {
    match told.code {
        Some(0) => Ok(()),
        _ => Err(format!("`{command}` does not help: {told:?}")),
    }
}

/// Returns the command in a hint: all of it, or what stands behind its last colon.
fn command_in(hint: &str) -> Option<String> {
    let behind = hint.rsplit_once(": ").map(|(_, behind)| behind.trim_end_matches(')'));
    [Some(hint), behind].into_iter().flatten().find(|text| is_command(text)).map(str::to_owned)
}

fn is_command(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    // Two programs are also verbs.
    if ["install", "join"].contains(&first) {
        return words.next().is_some_and(|word| word.starts_with('-'));
    }
    ["export", "unset", "cd", "dockerd-rootless"].contains(&first)
        || user::PATH.split(':').any(|directory| Path::new(directory).join(first).is_file())
        || first == "sudo"
}
