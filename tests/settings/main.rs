//! `config set` and `config unset`, as edits of a file's text: every other byte stays.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use dockerd_rootless::error::{Error, Exit};
use dockerd_rootless::settings::{Edited, KEYS, Key, Layer, edit, statements};
use proptest::prelude::*;

const FILE: &str = "/home/u/config.toml";

fn edited(text: &str, name: &str, value: Option<&str>) -> Result<Edited, Error> {
    let key = Key::find(name).expect("a key");
    edit(Path::new(FILE), text, key, value.map(OsStr::new))
}

/// A key with its value, or a key to take out; the text before; the text after.
type Case = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // A new section is the last.
    ("network.mtu=1500", "", "[network]\nmtu = 1500\n"),
    ("network.mtu=1500", "# a\n", "# a\n\n[network]\nmtu = 1500\n"),
    ("network.mtu=1500", "[proxy]\nno = 'a'", "[proxy]\nno = 'a'\n\n[network]\nmtu = 1500\n"),
    ("network.mtu=1500", "proxy.no = 'a'\n", "proxy.no = 'a'\n\n[network]\nmtu = 1500\n"),
    ("network.mtu=1500", "\u{feff}# a\r\n", "\u{feff}# a\r\n\r\n[network]\r\nmtu = 1500\r\n"),
    // A new key is the last of its section, in the form that the section has.
    ("network.mtu=1500", "[network]", "[network]\nmtu = 1500\n"),
    ("network.mtu=1500", "[network] # a\n# b\n", "[network] # a\nmtu = 1500\n# b\n"),
    ("network.mtu=1500", "# a\n[network] # b\n\nipv6 = true # c\n\n# d\n[proxy]\n# e\n",
        "# a\n[network] # b\n\nipv6 = true # c\nmtu = 1500\n\n# d\n[proxy]\n# e\n"),
    ("daemon.binary=d", "[daemon]\nargs = [\n  'a', # b\n] # c\n# d\n", "[daemon]\nargs = [\n  'a', # b\n] # c\nbinary = \"d\"\n# d\n"),
    ("network.mtu=1500", "[network]\r\nipv6 = true\r\n", "[network]\r\nipv6 = true\r\nmtu = 1500\r\n"),
    ("network.mtu=1500", "network.ipv6 = true\n# a\ndaemon.binary = 'd'\n", "network.ipv6 = true\nnetwork.mtu = 1500\n# a\ndaemon.binary = 'd'\n"),
    ("network.mtu=1500", "network.ipv6 = true\n[daemon]\n", "network.ipv6 = true\nnetwork.mtu = 1500\n[daemon]\n"),
    // A new value stands where the old one stood, be that right or wrong.
    ("network.mtu=1500", "[network]\n# a\n  mtu   =   1 # b\nipv6 = true\n", "[network]\n# a\n  mtu   =   1500 # b\nipv6 = true\n"),
    ("network.mtu=1500", "network.mtu = 1\r\n", "network.mtu = 1500\r\n"),
    ("network.mtu=1500", "network = {mtu=1,ipv6=true} # a", "network = {mtu=1500,ipv6=true} # a"),
    ("network.mtu=1500", "\u{feff}[\"network\"]\n'mtu' = 1\n", "\u{feff}[\"network\"]\n'mtu' = 1500\n"),
    ("network.mtu=1500", "[network]\nmtu = 'big'\n", "[network]\nmtu = 1500\n"),
    ("daemon.args=c 'd e'", "[daemon]\nargs = [\n  'a', # b\n]\n", "[daemon]\nargs = [\"c\", \"d e\"]\n"),
    ("daemon.binary=d", "[daemon]\nbinary = \"\"\"\na\"\"\" # b\n", "[daemon]\nbinary = \"d\" # b\n"),
    // The same value in another notation is the same value.
    ("network.mtu=1500", "[network]\nmtu = 0x5dc\n", "[network]\nmtu = 0x5dc\n"),
    ("daemon.binary=d", "[daemon]\nbinary = 'd'", "[daemon]\nbinary = 'd'"),
    ("daemon.args=a b", "[daemon]\nargs = [ 'a',\n'b' ]\n", "[daemon]\nargs = [ 'a',\n'b' ]\n"),
    // What goes takes its own lines along, and no others.
    ("network.mtu", "", ""),
    ("network.mtu", "# a\n[network]\n# b\n mtu = 1500 # c\n# d\nipv6 = true\n", "# a\n[network]\n# b\n# d\nipv6 = true\n"),
    ("network.mtu", "[network]\r\nmtu = 1500", "[network]\r\n"),
    ("network.mtu", "# a\nnetwork.mtu = 1500\nproxy.no = 'a'\n", "# a\nproxy.no = 'a'\n"),
    ("network.mtu", "[network]\nmtu = 'big'\n", "[network]\n"),
    ("daemon.args", "[daemon]\nargs = [\n  'a', # b\n] # c\n# d\n", "[daemon]\n# d\n"),
    ("network.mtu", "network = {  ipv6=true }\n", "network = {  ipv6=true }\n"),
    ("network.mtu", "[network]\nipv6 = true", "[network]\nipv6 = true"),
];

#[test]
fn every_other_byte_stays_and_a_second_edit_changes_nothing() {
    for (assignment, before, after) in CASES {
        let (name, value) = match assignment.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (*assignment, None),
        };
        for text in [before, after] {
            let edited = edited(text, name, value)
                .unwrap_or_else(|error| panic!("{assignment} in {text:?}: {error}"));
            assert_eq!(edited.text, *after, "{assignment} in {text:?}");
        }
    }
}

#[test]
fn a_value_has_the_type_that_its_key_has() {
    let cases = [
        ("network.driver", "pasta", r#""pasta""#),
        ("network.mtu", "auto", r#""auto""#),
        ("network.mtu", "0", "0"),
        ("network.slirp4netns-sandbox", "false", "false"),
        ("network.slirp4netns-sandbox", "auto", r#""auto""#),
        ("network.detach-netns", "1", "true"),
        ("network.host-loopback", "true", "true"),
        ("rootlesskit.copy-up", "/etc '/a b'", r#"["/etc", "/a b"]"#),
        ("rootlesskit.propagation", "private", r#""private""#),
        ("rootlesskit.flags", "", "[]"),
        ("daemon.binary", r"a\b", r"'a\b'"),
        ("daemon.iptables", "path", r#""path""#),
        ("proxy.no", "true", r#""true""#),
    ];
    for (name, value, expected) in cases {
        let edited = edited("", name, Some(value)).expect(name);
        let line = format!(" = {expected}\n");
        assert!(edited.text.ends_with(&line), "{name}: {edited:?}");
        assert_eq!(edited.shown.as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn a_proxys_password_is_stored_and_not_shown() {
    let first = edited("", "proxy.http", Some("http://me:secret@proxy")).unwrap();
    let stored = "[proxy]\nhttp = \"http://me:secret@proxy\"\n";
    assert_eq!(first.text, stored);
    assert_eq!(first.shown.as_deref(), Some("\"http://***@proxy\""));
    let other = edited(stored, "proxy.http", Some("http://me:other@proxy")).unwrap();
    assert_eq!(other.text, stored.replace("secret", "other"));
}

#[rustfmt::skip]
#[test]
fn what_is_wrong_is_named_with_its_line_in_the_old_text() {
    let number = "`network.mtu`: expected a whole number";
    let cases = [
        (Some("big"), "", "`network.mtu`: expected a whole number"),
        (Some("1"), "[network\n", "/home/u/config.toml:1: "),
        (Some("1"), "[network]\n\ndrivr = 1\n", "/home/u/config.toml:3: unknown key"),
        (Some("1"), "[network]\n[proxy]\nno = 1\n", "/home/u/config.toml:3: `proxy.no`"),
        (None, "[network]\nmtu = 1\n[proxy]\nno = 1\n", "/home/u/config.toml:4: `proxy.no`"),
        (Some("1"), "network = 1\n", "unknown key `network`"),
        // Where keys share a line, one cannot be added or taken out alone.
        (Some("1"), "network = { ipv6 = true }\n", "/home/u/config.toml: the layout of [network] is unusual"),
        (None, "network = { mtu = 1, ipv6 = true }\n", "the layout of [network] is unusual"),
        // A section in the place of a value may hold what only its author can judge.
        (Some("1"), "[network.mtu]\nx = 1\n", number),
        (None, "[network.mtu]\nx = 1\n", number),
        (Some("1"), "[network]\nmtu.x = 1\n", number),
    ];
    for (value, text, said) in cases {
        let error = edited(text, "network.mtu", value).expect_err(text);
        assert_eq!(error.exit(), Exit::Config, "{text:?}");
        assert!(error.to_string().contains(said), "{text:?}: {error}");
    }
}

#[test]
fn bytes_that_toml_cannot_hold_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    for name in ["daemon.binary", "daemon.args", "proxy.http"] {
        let key = Key::find(name).expect("a key");
        let word = OsStr::from_bytes(b"/\xff");
        let error = edit(Path::new(FILE), "", key, Some(word)).expect_err(name);
        let said = format!("`{name}`: the value is not UTF-8 text");
        assert_eq!(error.to_string(), said);
    }
}

/// Pieces of files. Those that contain `'''` open or close a string of several lines.
#[rustfmt::skip]
const LINES: &[&str] = &[
    "[network]", "[daemon] # c", "[proxy]", "mtu = 1", " ipv6 = true # c", "network.mtu = 'x'", "network.ipv6 = false",
    "network = { mtu = 1, ipv6 = true }", "network = {", "ipv6 = true,", "}", "daemon = {}", "args = [", "  'a', # c", "]",
    "args = []", "no = '''", "'''", "binary = 'd'", "daemon.args = ['[network]', '''", "# c", "",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn an_edit_changes_its_key_and_no_other(
        lines in proptest::collection::vec(proptest::sample::select(LINES), 0..8),
        line_end in proptest::sample::select(&["\n", "\r\n"][..]),
        (name, value) in proptest::sample::select(&[
            ("network.mtu", "7"), ("daemon.args", "a 'b\nc'"), ("proxy.no", "it's \"x\" {"),
        ][..]),
        sets in any::<bool>(),
    ) {
        let text = lines.join(line_end);
        let Ok(edited) = edited(&text, name, sets.then_some(value)) else { return Ok(()) };
        let says = |text: &str| -> BTreeMap<_, _> {
            let layer = Layer::from_toml(Path::new(FILE), text).expect("a valid file");
            let layers = [layer];
                let said = |name| statements(&layers, name).next().map(|(input, _)| input.clone());
                KEYS.iter().filter_map(|key| Some((key.name, said(key.name)?))).collect()
        };
        let (mut before, mut after) = (says(&text), says(&edited.text));
        let (old, new) = (before.remove(name), after.remove(name));
        prop_assert_eq!(before, after, "{:?}", edited.text);
        prop_assert_eq!(new.is_some(), sets, "{:?}", edited.text);
        prop_assert_eq!(old == new, edited.text == text, "{:?}", edited.text);
    }
}
