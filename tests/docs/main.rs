//! Every command line that the documentation shows is run, by a throw-away user with the real programs.
//!
//! A line is run as it stands, unless [`ROWS`] says what is put in its place or who runs it, and why.

mod page;

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use page::Line;
use test_support::*;

/// How a line is run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The line starts a daemon, which is ready and ends with 0 by Ctrl-C.
    Foreground,
    /// The line ends with 0 beside a daemon that runs.
    Beside,
    /// The line cannot end well here, but its options are understood.
    Parsed,
    /// Another test shows it.
    Elsewhere,
}

use Way::{Beside, Elsewhere, Foreground, Parsed};

/// How a line begins, the way, what is put in the place of what, and why.
type Row = (&'static str, Way, &'static [(&'static str, &'static str)], &'static str);

/// The lines that are not simply run.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("dockerd-rootless --data-root", Foreground, &[("/big/disk", "$HOME/disk")], "a user has no disk of that name"),
    ("dockerd-rootless run", Foreground, &[("/big/disk", "$HOME/disk")], "a user has no disk of that name"),
    ("dockerd-rootless status", Beside, &[], "asks a daemon"),
    ("dockerd-rootless restart", Beside, &[], "asks a daemon"),
    ("dockerd-rootless nsenter", Beside, &[], "needs its namespaces"),
    ("dockerd-rootless ids ./volume", Parsed, &[], "a user has no such directory; the suite `e2e` has one"),
    ("dockerd-rootless unshare", Parsed, &[], "a user has no such directory; the suite `e2e` has one"),
    ("dockerd-rootless verify --images all", Elsewhere, &[], "takes long; the suite `verify` asks all of that"),
    ("dockerd-rootless verify", Beside, &[], "asks a daemon"),
    ("docker build --tag dind-rootless", Elsewhere, &[], "there is no registry; the suite `container` makes such an image"),
    ("docker run --detach --name dind", Elsewhere, &[], "the suite `container` runs such an image"),
    ("docker exec dind", Elsewhere, &[], "the suite `container` asks the daemon in it"),
    ("dockerd-rootless config set daemon.tcp", Parsed, &[], "the next start would need certificates"),
    ("docker context create lab", Elsewhere, &[], "the CLI stores an address, as `install` shows"),
    ("docker --context lab", Elsewhere, &[], "there is no other host"),
    ("docker run --rm hello-world", Beside, &[("hello-world", "busybox true")], "there is no network"),
    ("docker run --rm --add-host", Elsewhere, &[], "`e2e` fetches a page from there"),
    ("dockerd-rootless fetch --remove", Parsed, &[], "nothing was fetched; the suite `fetch` removes what was"),
    ("dockerd-rootless fetch", Parsed, &[("dockerd", "env DOCKERD_ROOTLESS_MIRROR=http://127.0.0.1:9 dockerd")],
        "there is no network; the suite `fetch` has a server of its own"),
    ("curl -fsSL", Elsewhere, &[], "there is no network; the suite `fetch` pipes the script from a server of its own"),
    ("dockerd-rootless check -- --data-root", Parsed, &[("/big/disk", "$HOME/disk")], "a user has no disk of that name"),
    ("dockerd-rootless check --strict", Parsed, &[], "exits with 4 where the host has warnings"),
    ("dockerd-rootless check --print-fix=root | sudo", Elsewhere, &[],
        "changes the host; the suite `check` runs the fixes in namespaces"),
    ("make run", Elsewhere, &[], "`make_run_ends_with_the_line_to_paste` runs its script without building"),
    ("export DOCKER_HOST=", Elsewhere, &[], "`make_run_ends_with_the_line_to_paste` compares it"),
    ("make test", Elsewhere, &[], "runs this suite"),
    ("dockerd-rootless", Foreground, &[], "a daemon: the line says nothing more"),
];

/// Returns the row of a line. The bare name stands for a line that says nothing else.
fn row(line: &str) -> Option<&'static Row> {
    let command = line.split(" #").next().unwrap_or_default().trim();
    ROWS.iter().find(|(begins, ..)| match *begins {
        "dockerd-rootless" => command == "dockerd-rootless",
        begins => command.starts_with(begins),
    })
}

/// A user who has our program in PATH, this checkout's unit templates in the home, and perhaps a daemon.
struct Reader<'u> {
    user: &'u TestUser,
    daemon: Option<Daemon<'u>>,
}

impl<'u> Reader<'u> {
    fn new(user: &'u TestUser) -> Self {
        // `verify` packs the program into images.
        launcher::install_stripped(user);
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        for entry in fs::read_dir(templates).expect("templates").flatten() {
            let text = fs::read(entry.path()).expect("a template");
            user.write(&user.home.join("systemd").join(entry.file_name()), text);
        }
        Self { user, daemon: None }
    }

    /// Pastes a line into a shell.
    fn paste(&self, line: &str) -> Told {
        let mut shell = self.user.brief_command("sh");
        let bin = self.user.home.join("bin");
        shell.args(["-c", line]).current_dir(&self.user.home);
        Told::by(shell.env("PATH", format!("{}:{}", bin.display(), user::PATH)))
    }

    /// Makes sure that a daemon runs, a unit's or one of its own, and has an image.
    fn start(&mut self) {
        if self.paste("dockerd-rootless status").code != Some(0) {
            self.daemon = Some(Launch::new(self.user, Launcher::Run).ready());
        }
        Docker(self.user).import_image();
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            assert_eq!(daemon.stop().code(), Some(0));
        }
    }

    fn read(&mut self, Line { place, text }: &Line) {
        let place = format!("{place}: {text}");
        let Some((_, way, put, _)) = row(text) else {
            self.stop();
            let told = self.paste(text);
            assert_eq!(told.code, Some(0), "{place}: {told:?}");
            return;
        };
        let line = put.iter().fold(text.clone(), |line, (from, to)| line.replace(from, to));
        match way {
            Foreground => {
                self.stop();
                let _ = self.paste("dockerd-rootless uninstall");
                let home = self.user.home.display().to_string();
                let words = shlex::split(&line.replace("$HOME", &home)).expect(&place);
                let mut daemon = Launch::new(self.user, Launcher::Run).args(&words[1..]).ready();
                daemon.signal(Signal::SIGINT);
                assert_eq!(daemon.wait_exit().code(), Some(0), "{place}: {}", daemon.log());
            }
            Beside => {
                self.start();
                let told = self.paste(&line);
                assert_eq!(told.code, Some(0), "{place}: {told:?}");
            }
            Parsed => {
                let told = self.paste(&line);
                let usage = [Some(2), Some(78), Some(127)].contains(&told.code);
                assert!(told.code.is_some() && !usage, "{place}: {told:?}");
            }
            Elsewhere => {}
        }
    }
}

#[test]
fn the_commands_of_every_page_do_what_they_are_shown_for() {
    let help = Command::new(launcher::built("dockerd-rootless")).arg("--help").output();
    let help = Told::from(help.expect("--help"));
    let mut pages = page::all();
    pages.push(page::examples(&help.stdout));
    pages.retain(|lines| !lines.is_empty());
    assert!(pages.len() > 3, "{pages:?}");
    for lines in &pages {
        let user = TestUser::new();
        let manager = UserManager::start(&user);
        let mut reader = Reader::new(&user);
        lines.iter().for_each(|line| reader.read(line));
        reader.stop();
        let _ = reader.paste("dockerd-rootless uninstall");
        manager.stop();
    }
}

#[test]
fn every_row_is_for_a_line_that_is_shown() {
    let lines: Vec<Line> = page::all().into_iter().flatten().collect();
    for row_of in ROWS {
        let shown =
            lines.iter().any(|line| row(&line.text).is_some_and(|found| found.0 == row_of.0));
        assert!(shown, "no page shows `{}`", row_of.0);
    }
}

/// GitHub makes an anchor of a heading: in lower case, without punctuation, with dashes for blanks.
#[test]
fn every_link_to_a_heading_leads_to_one() {
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|&sign| sign.is_alphanumeric() || "-_".contains(sign)).collect()
    };
    let mut count = 0;
    for page in page::paths() {
        let text = fs::read_to_string(&page).expect("a page");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for (file, wanted) in links.filter_map(|link| link.split_once('#')) {
            let named = page.with_file_name(file);
            let target = if file.is_empty() { &page } else { &named };
            let text = fs::read_to_string(target).unwrap_or_default();
            let mut headings = text.lines().filter(|line| line.starts_with('#'));
            assert!(headings.any(|it| anchor(it) == wanted), "{}: {file}#{wanted}", page.display());
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// `make run` without building and installing, by root for another user.
#[test]
fn make_run_ends_with_the_line_to_paste() {
    let user = TestUser::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install/run.sh");
    let log = user.home.join("run.log");
    let output = fs::File::create(&log).expect("a log");
    let mut run = process::Background::start(
        Command::new("sh")
            .arg(script)
            .env("RUN_BINARY", launcher::built("dockerd-rootless"))
            .env("SUDO_USER", &user.name)
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output),
    );
    let said = || fs::read_to_string(&log).expect("the log");
    let line = wait::until("the line to paste", || {
        said().lines().find(|line| line.starts_with("export DOCKER_HOST=")).map(str::to_owned)
    });
    let shown =
        page::all().into_iter().flatten().find(|line| line.text.starts_with("export DOCKER_HOST="));
    let shown = shown.expect("README shows it").text.replace("/1000/", &format!("/{}/", user.uid));
    assert_eq!(line, shown);
    let docker = user.brief_command("sh").args(["-c", &format!("{line}; docker info")]).output();
    assert!(docker.expect("docker").status.success(), "{}", said());
    assert_eq!(run.end_by(Signal::SIGINT).code(), Some(0), "{}", said());
    assert_nothing_left(&user);
}
