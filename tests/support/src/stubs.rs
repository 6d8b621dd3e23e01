//! Programs that stand in for others, and what they noted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Puts `program`, or `input` if that is `/dev/stdin`, at `path`. Another process writes it: were it open for writing here
/// while another test forks, nobody could execute it until that child has executed something (ETXTBSY).
pub fn install(program: &str, path: &Path, input: &[u8]) {
    let mut command = Command::new("install");
    command.args(["-D", "-m", "755", program]).arg(path).stdin(Stdio::piped());
    let mut install = command.spawn().expect("install(1)");
    install.stdin.take().expect("a pipe").write_all(input).expect("a pipe");
    assert!(install.wait().expect("install(1)").success(), "{program}: install/packages.sh test");
}

/// A script in rootlesskit's place: it does `help` when it is asked, and else notes its words and variables in `record`.
pub fn rootlesskit(record: &Path, help: &str) -> String {
    let record = record.display();
    format!(
        "case $1 in --help) {help}; exit;; esac\n\
         cat /proc/$$/cmdline >{record}/words; cat /proc/$$/environ >{record}/variables"
    )
}

/// The words that [`rootlesskit`] was started with, its own path first; `None` if it was not. It is a script: what comes
/// before its path is the shell's.
pub fn words(record: &Path) -> Option<Vec<OsString>> {
    items(&record.join("words")).map(|mut words| words.split_off(1))
}

/// The variables that [`rootlesskit`] was started with.
pub fn variables(record: &Path) -> Option<BTreeMap<OsString, OsString>> {
    let pairs = items(&record.join("variables"))?.into_iter().map(|pair| {
        let mut parts = pair
            .as_bytes()
            .splitn(2, |byte| *byte == b'=')
            .map(|part| OsString::from_vec(part.to_vec()));
        (parts.next().expect("a name"), parts.next().expect("a value"))
    });
    Some(pairs.collect())
}

/// The items of a file of `/proc`, each with a NUL behind it.
fn items(file: &Path) -> Option<Vec<OsString>> {
    let bytes = fs::read(file).ok()?;
    let items = bytes.strip_suffix(b"\0").expect("a NUL").split(|byte| *byte == 0);
    Some(items.map(|item| OsString::from_vec(item.to_vec())).collect())
}
