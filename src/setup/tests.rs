use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use crate::error::Exit;
use crate::facts::DockerClient;
use crate::setup::facts::*;
use crate::setup::plan::*;
use crate::setup::units::*;

/// The unit that upstream's setup tool writes, as of 20.10 to 27.
fn upstreams() -> String {
    include_str!("../../tests/install/upstream.service")
        .replace("@PATH@", "/home/u/bin:/sbin:/usr/sbin:/usr/bin:/mnt/c/Program Files")
        .replace("@SCRIPT@", "/home/u/bin/dockerd-rootless.sh --iptables=false")
}

/// A login of a user with nothing installed.
fn bare() -> SetupFacts {
    SetupFacts {
        home: Home {
            user: "u".to_owned(),
            dir: "/home/u".into(),
            runtime_dir: "/run/user/1000".into(),
            program: "/home/u/bin/dockerd-rootless".into(),
            config_home: "/home/u/.config".into(),
            search_path: "/usr/bin:/bin".into(),
            ..Home::default()
        },
        manager: Manager::Answers,
        has_sudo: true,
        previous_context: ("/x/previous-context".into(), None),
        client: DockerClient { program: Some("/usr/bin/docker".into()), ..DockerClient::default() },
        ..SetupFacts::default()
    }
}

fn install(facts: &SetupFacts) -> SetupPlan {
    SetupPlan::install(facts, &InstallRequest::default()).expect("a plan")
}

fn upgrade(facts: &SetupFacts) -> SetupPlan {
    SetupPlan::upgrade(facts, false).expect("a plan")
}

fn uninstall(facts: &SetupFacts) -> SetupPlan {
    SetupPlan::uninstall(facts)
}

fn unit<'a>(facts: &'a mut SetupFacts, name: &str) -> &'a mut UnitFacts {
    if name == SERVICE { &mut facts.service } else { &mut facts.socket }
}

/// Returns what is there when `plan` has been carried out, and the daemon runs.
fn after(mut facts: SetupFacts, plan: &SetupPlan) -> SetupFacts {
    let dir = facts.home.unit_dir();
    for action in &plan.actions {
        match action {
            Action::Write(path, text) => {
                match path.strip_prefix(&dir).ok().and_then(Path::to_str) {
                    Some(name) => unit(&mut facts, name).own = Some(text.clone()),
                    None => facts.previous_context.1 = Some(text.clone()),
                }
            }
            Action::Start(_, name) => unit(&mut facts, name).active = true,
            Action::Run(line) => {
                let words: Vec<&str> = line.split(' ').collect();
                match words[1..] {
                    ["--user", "stop", name] => unit(&mut facts, name).active = false,
                    ["--user", "enable", name] => {
                        unit(&mut facts, name).links = vec![dir.join("x.wants").join(name)];
                    }
                    ["--user", "disable", name] => unit(&mut facts, name).links.clear(),
                    ["context", "create", name, _, host] => {
                        let host = host.trim_start_matches("host=").to_owned();
                        facts.client.contexts.insert(name.to_owned(), host);
                    }
                    ["context", "use", name] => {
                        facts.client.current_context = Some(name.to_owned());
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        facts.daemon.answers = facts.service.active;
    }
    facts
}

/// Returns the actions as they are printed, with `~` for the directory of the units.
fn explained(plan: &SetupPlan) -> Vec<String> {
    let short = |action: &Action| action.imperative().replace("/home/u/.config/systemd/user", "~");
    plan.actions.iter().map(short).collect()
}

fn installed() -> SetupFacts {
    after(bare(), &install(&bare()))
}

#[test]
fn a_first_installation_starts_before_it_enables_and_a_second_has_nothing_to_do() {
    let plan = install(&bare());
    assert_eq!(
        explained(&plan),
        [
            "write ~/docker.service",
            "write ~/docker.socket",
            "run systemctl --user daemon-reload",
            "start docker.service",
            "run systemctl --user enable docker.service",
            "run docker context create rootless --docker host=unix:///run/user/1000/docker.sock",
            "write /x/previous-context",
            "run docker context use rootless",
        ]
    );
    assert_eq!(plan.notes, [""; 0]);
    assert_eq!(install(&installed()), SetupPlan::default());
}

#[test]
fn actions_are_told_in_the_past_tense_and_as_objects() {
    let cases = [
        (
            Action::Write("/x".into(), "text".into()),
            "Wrote /x",
            r#"{"action":"write","path":"/x"}"#,
        ),
        (
            Action::Start("restart", SERVICE),
            "Restarted docker.service",
            r#"{"action":"restart","unit":"docker.service"}"#,
        ),
        (
            Action::Run("docker context use lab".to_owned()),
            "Ran docker context use lab",
            r#"{"action":"run","command":"docker context use lab"}"#,
        ),
    ];
    for (action, past, json) in cases {
        assert_eq!((action.past().as_str(), action.json().to_string().as_str()), (past, json));
    }
}

#[test]
fn on_demand_is_the_socket_in_the_services_place_and_stays_until_it_is_taken_back() {
    let on_demand = |facts: &SetupFacts, on| {
        let request = InstallRequest {
            on_demand: on == Some(true),
            no_on_demand: on == Some(false),
            never_idle: true,
            no_context: true,
            ..InstallRequest::default()
        };
        SetupPlan::install(facts, &request).expect("a plan")
    };
    let first = on_demand(&bare(), Some(true));
    let set = "run /home/u/bin/dockerd-rootless config set supervise.idle-timeout 300";
    assert_eq!(
        explained(&first)[3..],
        [set, "start docker.socket", "run systemctl --user enable docker.socket"]
    );
    let facts = after(bare(), &first);
    assert_eq!(explained(&on_demand(&facts, None)), [set]);

    let mut used = facts.clone();
    used.service.active = true;
    used.daemon.answers = true;
    let back = on_demand(&used, Some(false));
    assert_eq!(
        explained(&back),
        [
            "run systemctl --user stop docker.socket",
            "run systemctl --user stop docker.service",
            "start docker.service",
            "run systemctl --user disable docker.socket",
            "run systemctl --user enable docker.service"
        ]
    );
    used.daemon.busy = true;
    let busy = on_demand(&used, Some(false));
    assert_eq!(
        explained(&busy),
        [
            "run systemctl --user disable docker.socket",
            "run systemctl --user enable docker.service"
        ]
    );
    assert!(busy.notes[0].starts_with("Containers run"), "{:?}", busy.notes);
}

#[test]
fn an_edited_unit_stays() {
    let mut facts = installed();
    let text = facts.service.own.clone().expect("a text");
    facts.service.own = Some(text.replace("RestartSec=2", "RestartSec=9"));
    for plan in [install(&facts), upgrade(&facts)] {
        assert_eq!(explained(&plan), [""; 0]);
        assert!(plan.notes[0].contains("is kept"), "{:?}", plan.notes);
    }
    let plan = uninstall(&facts);
    let mut removed = explained(&plan);
    removed.retain(|what| what.contains("docker.service"));
    assert_eq!(
        removed,
        ["run systemctl --user stop docker.service", "remove ~/x.wants/docker.service"]
    );
    assert!(plan.notes[0].contains("is kept"), "{:?}", plan.notes);
}

#[test]
fn an_upgrade_rewrites_what_upstream_wrote_and_keeps_its_path_and_args() {
    let mut facts = bare();
    facts.service.own = Some(upstreams());
    facts.service.active = true;
    facts.daemon.answers = true;
    let plan = upgrade(&facts);
    let restart = Action::Start("restart", SERVICE);
    assert_eq!(plan.actions.last(), Some(&restart));
    let Action::Write(_, text) = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    for line in [
        "ExecStart=\"/home/u/bin/dockerd-rootless\" \"--iptables=false\"",
        "Environment=\"PATH=/home/u/bin:/sbin:/usr/sbin:/usr/bin:/mnt/c/Program Files\"",
    ] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    facts.daemon.busy = true;
    for answers in [true, false] {
        facts.daemon.answers = answers;
        for plan in [upgrade(&facts), install(&facts)] {
            assert!(!plan.actions.contains(&restart));
            assert!(plan.notes[0].starts_with("Containers run, or may"), "{:?}", plan.notes);
        }
    }
    let plan = SetupPlan::upgrade(&facts, true).expect("a plan");
    assert!(plan.actions.contains(&restart));
    // Containers that outlive dockerd need not wait for another day.
    let daemon = DaemonFacts { busy: true, answers: true, ..facts.daemon };
    facts.daemon = DaemonFacts { outdated: true, keeps_containers: true, ..daemon };
    assert!(
        upgrade(&facts)
            .actions
            .contains(&Action::Replace("/home/u/bin/dockerd-rootless restart".to_owned()))
    );
}

#[test]
fn an_upgrade_of_what_is_current_restarts_a_daemon_whose_programs_are_older() {
    let mut facts = installed();
    assert_eq!(upgrade(&facts), SetupPlan::default());
    // Another shell's PATH does not matter for the unit.
    facts.home.search_path = "/opt/bin".into();
    assert_eq!(upgrade(&facts), SetupPlan::default());
    facts.daemon.outdated = true;
    assert_eq!(explained(&upgrade(&facts)), ["restart docker.service"]);
    // What this program would write has changed since.
    facts.home.program = "/opt/dockerd-rootless".into();
    assert_eq!(
        explained(&upgrade(&facts)),
        ["write ~/docker.service", "run systemctl --user daemon-reload", "restart docker.service"]
    );
    let none = SetupPlan::upgrade(&bare(), false).expect_err("no unit");
    assert_eq!(none.exit(), Exit::Failed);
}

#[test]
fn an_edited_unit_is_told_from_ours_and_upstreams() {
    let ours = render_socket();
    let cases = [
        (ours.clone(), false),
        (ours.replace("0600", "0666"), true),
        (format!("{ours}\n"), true),
        (upstreams(), false),
        (upstreams().replace("Type=simple", "Type=notify\nNotifyAccess=all"), false),
        (upstreams().replace("/go/rootless/", "/engine/security/rootless/"), false),
        (upstreams().replace("RestartSec=2", "RestartSec=3"), true),
        (upstreams().replace("[Install]", "Environment=X=1\n[Install]"), true),
        (upstreams().replace("dockerd-rootless.sh", "my-dockerd"), true),
        (String::new(), true),
    ];
    for (text, edited) in cases {
        assert_eq!(is_edited(&text), edited, "{text}");
    }
}

#[test]
fn an_uninstallation_restores_the_context_and_leaves_what_is_not_ours() {
    let mut facts = installed();
    facts.previous_context.1 = Some("lab".to_owned());
    let uses = |facts: &SetupFacts| {
        let mut all = explained(&uninstall(facts));
        all.retain(|what| what.contains("docker context"));
        all
    };
    let remove = "run docker context rm -f rootless";
    assert_eq!(uses(&facts), ["run docker context use default", remove]);
    facts.client.contexts.insert("lab".to_owned(), "ssh://lab".to_owned());
    assert_eq!(uses(&facts), ["run docker context use lab", remove]);
    facts.client.current_context = Some("lab".to_owned());
    assert_eq!(uses(&facts), [remove]);
}

#[test]
fn a_context_that_leads_elsewhere_is_left_alone() {
    let mut facts = bare();
    facts.client.contexts = BTreeMap::from([("rootless".to_owned(), "tcp://far".to_owned())]);
    let kept = "The docker context `rootless` is for tcp://far, and is kept";
    assert_eq!(uninstall(&facts).notes, [kept]);
    let plan = install(&facts);
    assert_eq!(plan.notes, [format!("{kept}; this daemon's is `rootless-2`")]);
    let facts = after(facts, &plan);
    assert_eq!(install(&facts), SetupPlan::default());
    let mut actions = [explained(&plan), explained(&uninstall(&facts))].concat();
    actions.retain(|what| what.contains("docker context"));
    assert_eq!(
        actions,
        [
            "run docker context create rootless-2 --docker host=unix:///run/user/1000/docker.sock",
            "run docker context use rootless-2",
            "run docker context use default",
            "run docker context rm -f rootless-2",
        ]
    );
}

#[test]
fn what_can_be_installed_depends_on_the_user_manager() {
    let mut facts = bare();
    facts.manager = Manager::Silent;
    for (has_sudo, command) in [
        (true, "hint: sudo loginctl enable-linger u\n"),
        (false, "hint: su root -c 'loginctl enable-linger u'\n"),
    ] {
        facts.has_sudo = has_sudo;
        let refusal = SetupPlan::install(&facts, &InstallRequest::default());
        let refusal = refusal.expect_err("no manager");
        assert_eq!(refusal.exit(), Exit::Prerequisite);
        assert!(refusal.render().ends_with(command), "{}", refusal.render());
    }
    facts.manager = Manager::Absent;
    let plan = install(&facts);
    assert!(
        plan.notes[0].ends_with(r#": PATH=/home/u/bin:"$PATH" /home/u/bin/dockerd-rootless"#),
        "{plan:?}"
    );
    assert!(explained(&plan).iter().all(|what| what.contains("context")));
    facts.service = installed().service;
    let plan = uninstall(&facts);
    assert!(plan.actions.iter().all(|action| matches!(action, Action::Remove(_))), "{plan:?}");
}

#[test]
fn a_program_that_no_unit_can_start_is_refused() {
    for program in ["/home/u/a\"b/d", "/home/u/a\\b/d", "/home/u/a\nb/d", "/x/a.sh"] {
        let mut facts = bare();
        facts.home.program = program.into();
        SetupPlan::install(&facts, &InstallRequest::default()).expect_err(program);
    }
}

#[test]
fn the_path_of_a_unit_is_without_what_cannot_stand_there() {
    let path = unit_path(
        Path::new("/home/u/bin/dockerd-rootless"),
        ":/usr/bin:.:/mnt/c/Program Files:/usr/bin:a/b:/usr/sbin:/x\ny:".as_ref(),
    );
    assert_eq!(path, "/home/u/bin:/usr/bin:/mnt/c/Program Files:/usr/sbin:/sbin");
}

proptest! {
    #[test]
    fn what_is_rendered_is_read_again(
        path in "[^\0]{0,20}",
        args in proptest::collection::vec("[^\0]{1,12}", 0..4),
    ) {
        let program = Path::new("/opt/100% $HOME/dockerd-rootless");
        let text = render_service(program, &path, &args).expect("it can be named");
        prop_assert!(!is_edited(&text));
        prop_assert_eq!(parameters(&text), Parameters { path: Some(path), args });
    }

    #[test]
    fn any_text_can_be_judged(text in "\\PC*") {
        let _ = (is_edited(&text), parameters(&text));
    }
}
