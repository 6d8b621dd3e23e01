use std::path::Path;

use proptest::prelude::*;

use crate::environment::Environment;
use crate::settings::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn by_variable(name: &str, text: &str) -> Result<Settings, Error> {
    Settings::resolve(&[Layer::from_environment(&environment(&[(name, text)]))])
}

fn toml(text: &str) -> Result<Layer, Error> {
    Layer::from_toml(Path::new("/etc/x.toml"), text)
}

fn assignments(words: &[&str]) -> Layer {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    Layer::from_assignments(&words).expect("valid assignments")
}

/// The first line and the hint of the error that resolving `layer` ends in.
fn error_of(layer: Result<Layer, Error>) -> String {
    let error = match layer.and_then(|layer| Settings::resolve(&[layer])) {
        Ok(settings) => panic!("valid: {settings:?}"),
        Err(error) => error,
    };
    assert_eq!(error.exit(), Exit::Config);
    error.render()
}

#[test]
fn every_layer_beats_the_ones_below_and_leaves_its_place() {
    let low = toml("[network]\nmtu = 1400\n").unwrap();
    let file = toml("\n[network]\ndriver = \"pasta\"\nmtu = 1401\n").unwrap();
    let variables =
        Layer::from_environment(&environment(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "1402")]));
    let words = assignments(&["network.mtu=1403", "network.mtu=1404"]);

    let layers = [low, file, variables, words];
    let origin = |count: usize| {
        let settings = Settings::resolve(&layers[..count]).unwrap();
        (settings.mtu.value, settings.mtu.origin.to_string())
    };
    let fixed = |mtu| Choice::Fixed(Number(mtu));
    assert_eq!(origin(0), (Choice::Auto, "default".to_owned()));
    assert_eq!(origin(1), (fixed(1400), "/etc/x.toml:2".to_owned()));
    assert_eq!(origin(2), (fixed(1401), "/etc/x.toml:4".to_owned()));
    assert_eq!(
        origin(3),
        (fixed(1402), "environment variable DOCKERD_ROOTLESS_ROOTLESSKIT_MTU".to_owned())
    );
    assert_eq!(origin(4), (fixed(1404), "command line".to_owned()));

    let said: Vec<String> =
        statements(&layers, "network.mtu").map(|(input, _)| input.describe()).collect();
    assert_eq!(said, ["`1400`", "`1401`", "`1402`", "`1404`"]);
}

#[test]
fn every_key_can_be_set_by_each_of_its_variables_and_an_empty_one_counts_as_unset() {
    for key in KEYS {
        for variable in key.variables {
            let set = |text| Layer::from_environment(&environment(&[(variable, text)]));
            assert_eq!(set("1").values.keys().collect::<Vec<_>>(), [&key.name], "{variable}");
            let empty = set("");
            assert!(empty.values.is_empty() && empty.warnings.is_empty(), "{variable} is empty");
        }
    }
}

#[test]
fn every_key_and_variable_is_documented() {
    let documentation = include_str!("../../docs/configuration.md");
    for key in KEYS {
        let heading = format!("\n### {}\n", key.name);
        let (_, section) =
            documentation.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
        let section = section.split("\n#").next().unwrap_or_default();
        for variable in key.variables {
            assert!(section.contains(&format!("`{variable}`")), "{} of {}", variable, key.name);
        }
    }
    assert_eq!(documentation.matches("\n### ").count(), KEYS.len(), "headings without a key");
}

#[test]
fn only_the_literal_false_opens_the_host_loopback() {
    for (text, expected) in [
        ("false", (true, 0)),
        ("true", (false, 0)),
        ("0", (false, 1)),
        ("no", (false, 1)),
        ("FALSE", (false, 1)),
    ] {
        let read = by_variable("DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK", text).unwrap();
        assert_eq!((read.host_loopback.value, read.warnings.len()), expected, "{text}");
    }
}

#[test]
fn switches_among_the_users_flags_are_read_as_go_does() {
    let with = |words: &[&str]| {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let flags = Flags::of_rootlesskit(&words, |_| false);
        let settings = Settings::resolve(&[]).expect("the defaults").with_flags(&flags);
        (settings.ipv6.value, settings.detach_netns.value)
    };
    assert_eq!(with(&[]), (false, Choice::Auto));
    assert_eq!(with(&["--ipv6", "--detach-netns"]), (true, Choice::Fixed(true)));
    let (on, off) = ("1 t T true TRUE True", "0 f F false FALSE False");
    for (words, is_on) in [(on, true), (off, false)] {
        for word in words.split(' ') {
            let flags = [format!("--ipv6={word}"), format!("-detach-netns={word}")];
            let read = with(&["--ipv6", &flags[0], &flags[1]]);
            assert_eq!(read, (is_on, Choice::Fixed(is_on)), "{word}");
        }
    }
}

#[test]
fn detach_netns_takes_upstreams_four_words_and_auto() {
    let cases = [
        ("1", Some(Choice::Fixed(true))),
        ("true", Some(Choice::Fixed(true))),
        ("0", Some(Choice::Fixed(false))),
        ("false", Some(Choice::Fixed(false))),
        ("auto", Some(Choice::Auto)),
        ("yes", None),
        ("True", None),
    ];
    for (text, expected) in cases {
        let read = by_variable("DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS", text);
        assert_eq!(read.ok().map(|settings| settings.detach_netns.value), expected, "{text}");
    }
}

#[test]
fn a_wrong_value_is_named_with_its_place_and_what_is_allowed() {
    let variable = |name, value| Ok(Layer::from_environment(&environment(&[(name, value)])));
    let cases = [
        (
            variable("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "1500 --net=host"),
            "error: `DOCKERD_ROOTLESS_ROOTLESSKIT_MTU`: expected a whole number of bytes from 0 to 65521, or \
             auto, got `1500 --net=host`\nhint: unset DOCKERD_ROOTLESS_ROOTLESSKIT_MTU\n",
        ),
        (
            toml("[rootlesskit]\n\npropagation = \"rshared\"\n"),
            "error: /etc/x.toml:3: `rootlesskit.propagation`: expected rslave, rprivate, slave or private, got `\"rshared\"`\nhint: dockerd-rootless config unset rootlesskit.propagation\n",
        ),
        (
            toml("[network]\nmtu = \"1500\"\n"),
            "error: /etc/x.toml:2: `network.mtu`: expected a whole number of bytes from 0 to 65521, or auto, \
             got `\"1500\"`\nhint: dockerd-rootless config unset network.mtu\n",
        ),
        (
            toml("[rootlesskit]\ncopy-up = [\"/etc,/usr\"]\n"),
            "error: /etc/x.toml:2: `rootlesskit.copy-up`: expected a list of absolute paths, got \
             `[\"/etc,/usr\"]` (`/etc,/usr` contains a comma, at which rootlesskit would split it)\n\
             hint: dockerd-rootless config unset rootlesskit.copy-up\n",
        ),
        (
            Layer::from_toml(Path::new(SYSTEM_CONFIG), "[network]\nipv6 = 1\n"),
            "error: /etc/dockerd-rootless/config.toml:2: `network.ipv6`: expected true or false, got `1`\n\
             hint: dockerd-rootless config explain network.ipv6\n",
        ),
        (
            toml("[network]\nmtus = 1500\n"),
            "error: /etc/x.toml:2: unknown key `network.mtus`\ncause: line 2 is: mtus = 1500\n\
             hint: did you mean `network.mtu`?\n",
        ),
        (
            toml("[net]\nport_driver = \"builtin\"\n"),
            "error: /etc/x.toml:2: unknown key `net.port_driver`\n\
             cause: line 2 is: port_driver = \"builtin\"\nhint: did you mean `network.port-driver`?\n",
        ),
        (
            toml("mtu = 1500\n"),
            "error: /etc/x.toml:1: unknown key `mtu`\ncause: line 1 is: mtu = 1500\n\
             hint: keys stand in a section: [network], [rootlesskit], [daemon], [supervise], [proxy]\n",
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(error_of(layer), expected);
    }
}

#[test]
fn text_that_is_no_toml_is_named_by_its_line_which_is_shown() {
    let error = error_of(toml("[network]\nmtu = 1500\ndriver = pasta\n"));
    assert!(error.starts_with("error: /etc/x.toml:3: "), "{error}");
    assert!(error.contains("\ncause: line 3 is: driver = pasta\nhint: a line is"), "{error}");
    let secret = error_of(toml("[proxy]\nhttp = http://me:secret@proxy\n"));
    assert!(!secret.contains("secret"), "{secret}");
}

#[test]
fn a_misspelt_variable_is_refused_and_a_foreign_one_is_not() {
    let refused = |name| Layer::refuse_misspelt(&environment(&[(name, "x")])).err();
    let error = refused("DOCKERD_ROOTLESS_ROOTLESSKIT_NETT").expect("misspelt");
    assert_eq!(error.exit(), Exit::Config);
    assert!(error.render().contains("hint: did you mean `DOCKERD_ROOTLESS_ROOTLESSKIT_NET`?"));
    for name in ["DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "DOCKERD_ROOTLESS_MIRROR", "DOCKERD", "PATH"] {
        assert!(refused(name).is_none(), "{name}");
    }
}

#[test]
fn a_wrong_value_is_an_error_even_where_a_higher_layer_hides_it() {
    let low = toml("[network]\nmtu = 70000\n").unwrap();
    let error = Settings::resolve(&[low, assignments(&["network.mtu=1500"])]).unwrap_err();
    assert_eq!(error.exit(), Exit::Config);
}

#[test]
fn an_assignment_without_a_key_is_a_usage_error() {
    for word in ["network.mtu", "=1", "mtu=1", ""] {
        let error = Layer::from_assignments(&[OsString::from(word)]).expect_err(word);
        assert_eq!(error.exit(), Exit::Usage, "{word}");
    }
}

#[test]
fn mtus_are_read_as_decimal_numbers_only() {
    let cases = [("0", Some(0)), ("1500", Some(1500)), ("65521", Some(65521))];
    let refused =
        ["65522", "-1", "0x5dc", "01500", "1_500", "+1", "1500 ", "", "99999999999999999999"];
    for (text, expected) in cases.into_iter().chain(refused.map(|text| (text, None))) {
        assert_eq!(Mtu::read(&Input::Text(text.into())).ok(), expected.map(Number), "{text:?}");
    }
}

#[test]
fn a_proxys_password_is_never_shown() {
    let layer =
        assignments(&["proxy.http=http://user:p@ss@proxy:3128", "proxy.https=user:secret@proxy"]);
    let settings = Settings::resolve(&[layer]).unwrap();
    let shown: Vec<String> =
        settings.show().into_iter().filter_map(|(_, value, _)| value).collect();
    assert!(shown.contains(&"\"http://***@proxy:3128\"".to_owned()), "{shown:?}");
    assert!(
        !shown.iter().any(|value| value.contains("p@ss") || value.contains("secret")),
        "{shown:?}"
    );
}

proptest! {
    #[test]
    fn any_text_is_a_value_or_an_error_that_names_the_variable(
        at in 0..KEYS.len(),
        bytes in proptest::collection::vec(1u8..=255, 1..40),
    ) {
        use std::os::unix::ffi::OsStringExt;
        let Some(variable) = KEYS[at].variables.first() else { return Ok(()) };
        let variables: Environment = [(OsString::from(variable), OsString::from_vec(bytes))].into_iter().collect();
        if let Err(error) = Settings::resolve(&[Layer::from_environment(&variables)]) {
            prop_assert!(error.to_string().contains(variable), "{}", error);
            prop_assert_eq!(error.exit(), Exit::Config);
        }
    }

    #[test]
    fn any_file_is_a_layer_or_an_error_that_names_it(text in "(\\[(network|daemon|proxy)\\]\n)?[a-z=\"'\\[\\]0-9#. \n-]{0,80}") {
        if let Err(error) = toml(&text).and_then(|layer| Settings::resolve(&[layer])) {
            prop_assert!(error.to_string().starts_with("/etc/x.toml:"), "{}", error);
            prop_assert_eq!(error.exit(), Exit::Config);
        }
    }

    #[test]
    fn any_bytes_make_a_list_of_words_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        if let Ok(words) = Vec::<OsString>::read(&Input::Text(OsString::from_vec(bytes.clone()))) {
            prop_assert!(words.iter().all(|word| word.as_bytes().len() <= bytes.len()));
        }
    }
}
