//! The password of a proxy is handed on and never shown.

use super::{Bench, Wrong};

/// Commands that may name a proxy, with room for more words behind the first.
#[rustfmt::skip]
const PROXY_READERS: [&str; 9] = [
    "plan SET", "plan SET --format json", "run SET --exec", "config SET show", "config SET show --origin",
    "config SET show --format json", "config SET explain proxy.http", "config SET explain proxy.https", "config SET check",
];

pub const PASSWORD: &str = "hunter2";

#[test]
fn the_password_of_a_proxy_is_handed_on_and_never_shown() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for url in [
        "http://me:hunter2@proxy:3128",
        "me:hunter2@proxy:3128",
        "http://me:hunter2@x@proxy",
        "http://me:x/hunter2@proxy",
        "http://hunter2@proxy",
        "socks5://:hunter2@[::1]:1",
    ] {
        for source in ["file", "HTTP_PROXY=", "http_proxy=", "HTTPS_PROXY=", "--set proxy.https="] {
            bench.configure(if source == "file" {
                format!("[proxy]\nhttp = '{url}'\n")
            } else {
                String::new()
            });
            let given = |kind: bool| {
                if kind { format!("{source}'{url}'") } else { String::new() }
            };
            let (variable, set) = (
                given(source.ends_with("Y=") || source.ends_with("y=")),
                given(source.starts_with("--")),
            );
            for line in PROXY_READERS {
                let told =
                    bench.tell(&format!("RUST_LOG=trace {variable} {}", line.replace("SET", &set)));
                let shown = [&*told.stdout, &told.stderr].concat();
                let right = told.code == Some(0) && !shown.contains(PASSWORD);
                wrong.unless(right, || format!("{url} by {source}, {line}: {told:?}"));
            }
            let got = bench.recorded_variables();
            wrong.unless(got.values().any(|value| value == url), || {
                format!("{url} by {source} did not arrive: {got:?}")
            });
        }
    }
    wrong.end();
}

#[test]
fn a_proxys_user_is_shown_as_stars_and_the_rest_as_it_is() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    // As a setting, the stars would replace the password in whoever saves the output as a file.
    for (url, shown) in [
        (
            "http://me:hunter2@proxy:3128",
            "# http = \"http://***@proxy:3128\", its password not shown",
        ),
        ("me:hunter2@proxy:3128", "# http = \"***@proxy:3128\", its password not shown"),
        ("proxy:3128", "http = \"proxy:3128\""),
    ] {
        let told = bench.tell(&format!("HTTP_PROXY={url} config show"));
        wrong.unless(told.stdout.contains(&format!("\n{shown}\n")), || format!("{url}: {told:?}"));
    }
    wrong.end();
}

#[test]
fn an_error_about_a_proxy_keeps_its_password() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for value in [
        "['http://me:hunter2@proxy']",
        r#""http://me:hunter2@proxy\u0000""#,
        "'hunter2@proxy",
        "http://hunter2@proxy",
    ] {
        bench.configure(format!("[proxy]\nhttp = {value}\n"));
        for line in PROXY_READERS {
            let told = bench.tell(&line.replace("SET", ""));
            let right = told.code == Some(78) && !told.stderr.contains(PASSWORD);
            wrong.unless(right, || format!("{value}, {line}: {told:?}"));
        }
    }
    bench.configure("");
    for line in [
        "plan --set proxy.htp=http://me:hunter2@proxy",
        "plan --set proxy.http:http://me:hunter2@proxy",
    ] {
        let told = bench.tell(line);
        wrong.unless(told.code == Some(2) && !told.stderr.contains(PASSWORD), || {
            format!("{line}: {told:?}")
        });
    }
    wrong.end();
}
