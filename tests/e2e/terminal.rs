//! `run` in a terminal: a person sees what they need, and a file gets the rest.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use test_support::docker::IMAGE;
use test_support::*;

/// A program in a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Types `words` after the name of our program.
    fn run(user: &TestUser, words: &str) -> Self {
        let line = format!("exec {} {words}", Launcher::Run.install(user).display());
        let mut script = user.command("script");
        script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        let mut child =
            script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1)");
        let keys = child.stdin.take().expect("a pipe");
        let mut output = child.stdout.take().expect("a pipe");
        let screen = Arc::new(Mutex::new(String::new()));
        let written = screen.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).replace('\r', "");
                written.lock().expect("no panic").push_str(&text);
            }
        });
        Self { child, keys, screen }
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("no panic").clone()
    }

    fn wait_for(&self, text: &str) {
        let shown = wait::poll(wait::PATIENCE, || self.screen().contains(text).then_some(()));
        assert!(shown.is_some(), "no `{text}` in:\n{}", self.screen());
    }

    /// Waits for the end. Returns the exit code and all that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("ended").code();
        drop(self.keys);
        let screen = wait::until("the output ends", || {
            (Arc::strong_count(&self.screen) == 1)
                .then(|| self.screen.lock().expect("no panic").clone())
        });
        (code, screen)
    }
}

#[test]
fn a_start_is_one_line_with_an_address_to_paste_and_ctrl_c_stops_it() {
    let user = TestUser::new();
    let mut terminal = Terminal::run(&user, "");
    terminal.wait_for("Press Ctrl-C to stop.\n");
    let screen = terminal.screen();
    let (first, rest) = screen.split_once('\n').expect("lines");
    assert!(first.starts_with("Starting rootless Docker "), "{screen}");
    assert!(first.contains(" (slirp4netns) … ready in "), "{screen}");
    assert!(!screen.contains("time="), "{screen}");
    let export = rest.lines().find_map(|line| line.split_once("terminal:")).expect("a line").1;
    let install = rest.lines().find_map(|line| line.split_once("running:")).expect("a line").1;
    let tried = install.replace(" install", " install --help");
    Told::by(user.command("sh").args(["-c", &tried])).good();
    let log = user.home.join(".local/state/dockerd-rootless/docker.log");
    assert!(rest.contains(&format!("{} (-v shows it here)", log.display())), "{screen}");
    // A thread writes the log.
    let lines = wait::until("the log tells of the daemon and of us", || {
        let lines = fs::read_to_string(&log).expect("the log");
        let is_whole = lines.contains("time=") && lines.contains("INFO rootless Docker is ready");
        is_whole.then_some(lines)
    });

    let docker = Docker(&user);
    docker.import_image();
    let shell = format!("{export}; docker run --detach --stop-timeout=1 {IMAGE} sleep 600");
    command::run(user.command("sh").args(["-c", &shell]));
    terminal.keys.write_all(b"\x03").expect("type");
    let (code, screen) = terminal.end();
    let stopped = "Stopping 1 container (Ctrl-C again kills it) … stopped after ";
    assert!(code == Some(0) && screen.contains(stopped), "{code:?} {screen}");
    assert!(!screen.contains("time="), "{screen}");

    // The next start has a log of its own.
    let terminal = Terminal::run(&user, "--storage-driver=devicemapper");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(4), "{screen}");
    assert!(screen.contains(&format!("failed (log: {})\n", log.display())), "{screen}");
    let cause =
        "dockerd: failed to start daemon: error initializing graphdriver: driver not supported";
    assert_eq!(screen.matches(cause).count(), 1, "{screen}");
    assert!(screen.contains("\nerror: Docker did not start\n"), "{screen}");
    for noise in ["time=", "rootlesskit:", "warning:"] {
        assert!(!screen.contains(noise), "{screen}");
    }
    let previous = fs::read_to_string(log.with_extension("log.1")).expect("the last log");
    assert!(previous.starts_with(&lines), "{previous}");
    assert_nothing_left(&user);
}

#[test]
fn with_v_the_daemons_lines_are_shown() {
    let user = TestUser::new();
    let mut terminal = Terminal::run(&user, "run -v");
    terminal.wait_for("rootless Docker is ready");
    terminal.keys.write_all(b"\x03").expect("type");
    let (code, screen) = terminal.end();
    assert!(code == Some(0) && screen.contains("time="), "{code:?} {screen}");
    assert!(!user.home.join(".local/state/dockerd-rootless").exists());
}
