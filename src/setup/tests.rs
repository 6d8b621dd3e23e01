use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::error::Exit;
use crate::facts::DockerClient;
use crate::setup::actions::*;
use crate::setup::decide::*;
use crate::setup::facts::*;
use crate::setup::units::*;

const HOST: &str = "unix:///run/user/1000/docker.sock";

/// The unit that upstream's setup tool writes, as of 20.10 to 27.
const UPSTREAMS: &str = "[Unit]
Description=Docker Application Container Engine (Rootless)
Documentation=https://docs.docker.com/go/rootless/

[Service]
Environment=PATH=/home/u/bin:/sbin:/usr/sbin:/usr/bin:/mnt/c/Program Files
ExecStart=/home/u/bin/dockerd-rootless.sh --iptables=false
ExecReload=/bin/kill -s HUP $MAINPID
TimeoutSec=0
RestartSec=2
Restart=always
StartLimitBurst=3
StartLimitInterval=60s
LimitNOFILE=infinity
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
Delegate=yes
Type=simple
KillMode=mixed

[Install]
WantedBy=default.target
";

/// A login of a user with nothing installed.
fn bare() -> SetupFacts {
    SetupFacts {
        home: Home {
            user: "u".to_owned(),
            dir: "/home/u".into(),
            runtime_dir: "/run/user/1000".into(),
            program: "/home/u/bin/dockerd-rootless".into(),
            search_path: "/usr/bin:/bin".into(),
            ..Home::default()
        },
        manager: Manager::Answers,
        linger: Some(true),
        has_sudo: true,
        has_dbus: true,
        kept_path: None,
        unit_dir: "/home/u/.config/systemd/user".into(),
        service: UnitFacts::default(),
        socket: UnitFacts::default(),
        daemon: DaemonFacts::default(),
        client: DockerClient { program: Some("/usr/bin/docker".into()), ..DockerClient::default() },
        notes: ("/home/u/.local/share/dockerd-rootless/setup.json".into(), Notes::default()),
        answers: None,
    }
}

fn install(facts: &SetupFacts) -> SetupPlan {
    SetupPlan::install(facts, &InstallRequest::default()).expect("a plan")
}

/// What is there when `plan` has been carried out, and the daemon runs.
fn after(mut facts: SetupFacts, plan: &SetupPlan) -> SetupFacts {
    let dir = facts.unit_dir.clone();
    for action in &plan.actions {
        match action {
            Action::Write { path, text } => {
                let file = UnitFile::Text(text.clone());
                match path {
                    path if *path == dir.join(SERVICE) => facts.service.own = file,
                    path if *path == dir.join(SOCKET) => facts.socket.own = file,
                    path if *path == beside(&dir.join(SERVICE)) => facts.service.beside = file,
                    other => panic!("{}", other.display()),
                }
            }
            Action::Enable { unit: name } | Action::Disable { unit: name } => {
                let is_on = matches!(action, Action::Enable { .. });
                let links = vec![dir.join("x.wants").join(name)];
                let unit = named(&mut facts, name);
                unit.enabled = is_on;
                unit.links = links.into_iter().filter(|_| is_on).collect();
            }
            Action::Start { unit } | Action::Stop { unit } | Action::Restart { unit } => {
                named(&mut facts, unit).active = !matches!(action, Action::Stop { .. });
                facts.daemon.answers = facts.service.active;
                facts.daemon.outdated = false;
            }
            Action::CreateContext { host } | Action::UpdateContext { host } => {
                facts.client.contexts.insert(CONTEXT.to_owned(), host.clone());
            }
            Action::UseContext { name, previous } => {
                facts.client.current_context = Some(name.clone());
                facts.notes.1.previous_context.clone_from(previous);
            }
            _ => {}
        }
    }
    facts
}

fn named<'f>(facts: &'f mut SetupFacts, name: &str) -> &'f mut UnitFacts {
    match name {
        SERVICE => &mut facts.service,
        _ => &mut facts.socket,
    }
}

fn explained(plan: &SetupPlan) -> Vec<String> {
    plan.actions.iter().map(Action::imperative).collect()
}

fn installed() -> SetupFacts {
    let facts = bare();
    let plan = install(&facts);
    after(facts, &plan)
}

#[test]
fn a_first_installation_starts_before_it_enables_and_a_second_has_nothing_to_do() {
    let facts = bare();
    let plan = install(&facts);
    let unit = "/home/u/.config/systemd/user/docker";
    assert_eq!(
        explained(&plan),
        [
            format!("write {unit}.service"),
            format!("write {unit}.socket"),
            "reload systemd's user units".to_owned(),
            "start docker.service".to_owned(),
            "enable docker.service".to_owned(),
            format!("create docker context `rootless` for {HOST}"),
            "switch the docker context to `rootless`".to_owned(),
        ]
    );
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    assert_eq!(
        plan.actions[6].past(),
        "Switched the docker context to `rootless` (was `default`; uninstall restores it)"
    );
    let [write, .., switch] = &plan.actions[..] else { panic!("{:?}", plan.actions) };
    assert_eq!(
        serde_json::to_string(&[write, switch]).expect("JSON"),
        format!(
            r#"[{{"action":"write","path":"{unit}.service"}},{{"action":"use-context","name":"rootless","previous":"default"}}]"#
        )
    );
    assert_eq!(install(&after(facts, &plan)), SetupPlan::default());
}

#[test]
fn another_shells_path_changes_a_unit_only_if_it_leads_elsewhere() {
    let mut facts = installed();
    facts.kept_path = Some(facts.home.search_path.clone());
    facts.home.search_path = "/opt/tools:/usr/bin:/bin".into();
    assert_eq!(install(&facts), SetupPlan::default());
    facts.kept_path = None;
    assert_eq!(
        explained(&install(&facts)),
        [
            "write /home/u/.config/systemd/user/docker.service",
            "reload systemd's user units",
            "restart docker.service"
        ]
    );
}

#[test]
fn on_demand_is_the_socket_in_the_services_place_and_stays_until_it_is_taken_back() {
    let on_demand = |facts: &SetupFacts, on| {
        let request = InstallRequest {
            on_demand: on,
            never_idle: true,
            no_context: true,
            ..InstallRequest::default()
        };
        SetupPlan::install(facts, &request).expect("a plan")
    };
    let first = on_demand(&bare(), Some(true));
    assert_eq!(
        explained(&first)[3..],
        [
            "set supervise.idle-timeout to 300 in your configuration file",
            "start docker.socket",
            "enable docker.socket"
        ]
    );
    let facts = after(bare(), &first);
    assert_eq!(
        explained(&on_demand(&facts, None)),
        ["set supervise.idle-timeout to 300 in your configuration file"]
    );

    let mut used = facts.clone();
    used.service.active = true;
    used.daemon.answers = true;
    let back = on_demand(&used, Some(false));
    assert_eq!(
        explained(&back),
        [
            "stop docker.socket",
            "stop docker.service",
            "start docker.service",
            "disable docker.socket",
            "enable docker.service"
        ]
    );
    used.daemon.busy = true;
    let busy = on_demand(&used, Some(false));
    assert_eq!(explained(&busy), ["disable docker.socket", "enable docker.service"]);
    assert!(busy.notes[0].starts_with("Containers run"), "{:?}", busy.notes);
}

#[test]
fn an_edited_unit_stays_and_the_new_one_is_laid_beside_it() {
    let mut facts = installed();
    let UnitFile::Text(text) = facts.service.own.clone() else { panic!("a text") };
    facts.service.own = UnitFile::Text(text.replace("RestartSec=2", "RestartSec=9"));
    let upgrade = |facts: &SetupFacts| SetupPlan::upgrade(facts, false).expect("a plan");
    for plan in [install(&facts), upgrade(&facts)] {
        assert_eq!(explained(&plan), ["write /home/u/.config/systemd/user/docker.service.new"]);
        assert!(plan.keeps_edited && plan.notes[1].contains("diff "), "{:?}", plan.notes);
        assert_eq!(explained(&install(&after(facts.clone(), &plan))), [""; 0]);
    }
    let facts = after(facts.clone(), &install(&facts));
    let plan = SetupPlan::uninstall(&facts, false).expect("a plan");
    let removed: Vec<_> =
        explained(&plan).into_iter().filter(|what| what.contains("docker.service")).collect();
    assert_eq!(
        removed,
        [
            "stop docker.service",
            "disable docker.service",
            "remove /home/u/.config/systemd/user/docker.service.new"
        ]
    );
    assert!(plan.keeps_edited && plan.notes[0].contains("is kept"), "{:?}", plan.notes);
}

#[test]
fn an_upgrade_rewrites_what_upstream_wrote_and_keeps_its_path_and_words() {
    let mut facts = bare();
    facts.service.own = UnitFile::Text(UPSTREAMS.to_owned());
    facts.service.active = true;
    facts.service.enabled = true;
    facts.daemon.answers = true;
    let plan = SetupPlan::upgrade(&facts, false).expect("a plan");
    assert_eq!(explained(&plan).last().expect("a restart"), "restart docker.service");
    let Action::Write { text, .. } = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    for line in [
        "ExecStart=\"/home/u/bin/dockerd-rootless\" \"--iptables=false\"",
        "Environment=\"PATH=/home/u/bin:/sbin:/usr/sbin:/usr/bin:/mnt/c/Program Files\"",
    ] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    facts.daemon.busy = true;
    let plan = SetupPlan::upgrade(&facts, false).expect("a plan");
    assert!(!plan.actions.contains(&Action::Restart { unit: SERVICE }));
    assert!(plan.notes[0].starts_with("Containers run"), "{:?}", plan.notes);
    facts.daemon.answers = false;
    for plan in [SetupPlan::upgrade(&facts, false).expect("a plan"), install(&facts)] {
        assert!(!plan.actions.contains(&Action::Restart { unit: SERVICE }));
        assert!(
            plan.notes[0].starts_with("The daemon does not answer, and containers may run"),
            "{:?}",
            plan.notes
        );
    }
    let plan = SetupPlan::upgrade(&facts, true).expect("a plan");
    assert!(plan.actions.contains(&Action::Restart { unit: SERVICE }));
    // Containers that outlive dockerd need not wait for another day.
    facts.daemon = DaemonFacts {
        busy: true,
        answers: true,
        outdated: true,
        keeps_containers: true,
        ..facts.daemon
    };
    let plan = SetupPlan::upgrade(&facts, false).expect("a plan");
    assert!(plan.actions.contains(&Action::Replace));
}

#[test]
fn an_upgrade_of_what_is_current_restarts_a_daemon_whose_programs_are_older() {
    let facts = installed();
    let upgrade = |facts: &SetupFacts| SetupPlan::upgrade(facts, false).expect("a plan");
    assert_eq!(upgrade(&facts), SetupPlan::default());
    // Another shell's PATH is none of the unit's.
    let mut elsewhere = facts.clone();
    elsewhere.home.search_path = "/opt/bin".into();
    assert_eq!(upgrade(&elsewhere), SetupPlan::default());
    let mut outdated = facts;
    outdated.daemon.outdated = true;
    assert_eq!(explained(&upgrade(&outdated)), ["restart docker.service"]);
    // What this program would write has changed since.
    let mut older = installed();
    older.has_dbus = false;
    let plan = upgrade(&older);
    assert_eq!(
        explained(&plan),
        [
            "write /home/u/.config/systemd/user/docker.service",
            "reload systemd's user units",
            "restart docker.service"
        ]
    );
    let none = SetupPlan::upgrade(&bare(), false).expect_err("no unit");
    assert_eq!(none.exit(), Exit::Failed);
}

#[test]
fn a_unit_of_an_older_version_is_rewritten() {
    let old = "# Written by dockerd-rootless 0.0.9
# sha256 of the lines below: 6373da7801bebb2b83bba9054b52b5c75b03bf4b9fca86a9ce68bb2611b47540
[Service]
ExecStart=\"/home/u/bin/dockerd-rootless\" \"--debug\"
";
    assert_eq!(identify(old), Author::Us);
    let mut facts = installed();
    facts.service.own = UnitFile::Text(old.to_owned());
    let plan = SetupPlan::upgrade(&facts, false).expect("a plan");
    let Action::Write { path, text } = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    assert!(path.ends_with(SERVICE));
    assert!(text.contains("ExecStart=\"/home/u/bin/dockerd-rootless\" \"--debug\"\n"));
}

#[test]
fn authors_are_told_apart() {
    let ours = render_socket();
    let cases = [
        (ours.clone(), Author::Us),
        (ours.replace("0600", "0666"), Author::User),
        (format!("{ours}\n"), Author::User),
        (UPSTREAMS.to_owned(), Author::Upstream),
        (UPSTREAMS.replace("Type=simple", "Type=notify\nNotifyAccess=all"), Author::Upstream),
        (UPSTREAMS.replace("/go/rootless/", "/engine/security/rootless/"), Author::Upstream),
        (UPSTREAMS.replace("RestartSec=2", "RestartSec=3"), Author::User),
        (UPSTREAMS.replace("[Install]", "Environment=X=1\n[Install]"), Author::User),
        (UPSTREAMS.replace("dockerd-rootless.sh", "my-dockerd"), Author::User),
        (String::new(), Author::User),
    ];
    for (text, author) in cases {
        assert_eq!(identify(&text), author, "{text}");
    }
}

#[test]
fn an_uninstallation_restores_the_context_and_leaves_what_is_not_ours() {
    let mut facts = installed();
    facts.notes.1.previous_context = Some("lab".to_owned());
    let uses = |facts: &SetupFacts| {
        let plan = SetupPlan::uninstall(facts, false).expect("a plan");
        plan.actions
            .iter()
            .filter(|action| matches!(action, Action::UseContext { .. } | Action::RemoveContext))
            .map(Action::imperative)
            .collect::<Vec<_>>()
    };
    let remove = "remove docker context `rootless`";
    assert_eq!(uses(&facts), ["switch the docker context to `default`", remove]);
    facts.client.contexts.insert("lab".to_owned(), "ssh://lab".to_owned());
    assert_eq!(uses(&facts), ["switch the docker context to `lab`", remove]);
    facts.client.current_context = Some("lab".to_owned());
    assert_eq!(uses(&facts), [remove]);
    facts.client.contexts = BTreeMap::from([(CONTEXT.to_owned(), "tcp://far".to_owned())]);
    assert_eq!(uses(&facts), [""; 0]);
}

#[test]
fn who_starts_units_decides_what_can_be_installed() {
    let mut facts = bare();
    facts.manager = Manager::Silent;
    let refusal = SetupPlan::install(&facts, &InstallRequest::default()).expect_err("no manager");
    assert_eq!(refusal.exit(), Exit::Prerequisite);
    for (has_sudo, command) in [
        (true, "hint: sudo loginctl enable-linger u\n"),
        (false, "hint: su root -c 'loginctl enable-linger u'\n"),
    ] {
        facts.has_sudo = has_sudo;
        let refusal = SetupPlan::install(&facts, &InstallRequest::default());
        let said = refusal.expect_err("no manager").render();
        assert!(said.ends_with(command), "{said}");
    }
    let request = InstallRequest { enable_linger: true, ..InstallRequest::default() };
    let plan = SetupPlan::install(&facts, &request).expect("a plan");
    assert_eq!(plan.actions, [Action::EnableLinger { user: "u".to_owned() }]);

    facts.manager = Manager::Absent;
    let plan = install(&facts);
    assert!(plan.notes[0].ends_with("To start it: /home/u/bin/dockerd-rootless"), "{plan:?}");
    assert!(explained(&plan).iter().all(|what| what.contains("context")));

    facts.service = installed().service;
    let plan = SetupPlan::uninstall(&facts, false).expect("a plan");
    assert!(plan.actions.iter().all(|action| matches!(action, Action::Remove { .. })), "{plan:?}");
}

#[test]
fn a_masked_unit_and_a_program_that_no_unit_can_name_are_refused() {
    let mut facts = bare();
    facts.service.own = UnitFile::Masked;
    let refused = SetupPlan::install(&facts, &InstallRequest::default()).expect_err("masked");
    assert!(refused.render().contains("systemctl --user unmask docker.service"));
    for program in ["/home/u/a\"b/d", "/home/u/a\\b/d", "/home/u/a\nb/d"] {
        let mut facts = bare();
        facts.home.program = program.into();
        SetupPlan::install(&facts, &InstallRequest::default()).expect_err(program);
    }
}

#[test]
fn data_in_use_are_not_deleted() {
    let mut facts = bare();
    facts.daemon.supervisor = Some(42);
    let refusal = SetupPlan::uninstall(&facts, true).expect_err("it runs");
    assert_eq!(refusal.exit(), Exit::AlreadyRunning);
    assert!(refusal.render().contains("kill 42"));
}

#[test]
fn what_is_known_of_programs_goes_with_the_data() {
    let mut facts = bare();
    facts.answers = Some("/home/u/.cache/dockerd-rootless/programs.json".into());
    for (purge_data, expected) in
        [(false, vec![]), (true, vec!["remove /home/u/.cache/dockerd-rootless/programs.json"])]
    {
        let plan = SetupPlan::uninstall(&facts, purge_data).expect("a plan");
        assert_eq!(explained(&plan), expected);
    }
}

#[test]
fn the_path_of_a_unit_is_without_what_cannot_stand_there() {
    let (path, dropped) = unit_path(
        Path::new("/home/u/bin/dockerd-rootless"),
        ":/usr/bin:.:/mnt/c/Program Files:/usr/bin:a/b:/usr/sbin:/x\ny:".as_ref(),
    );
    assert_eq!(path, "/home/u/bin:/usr/bin:/mnt/c/Program Files:/usr/sbin:/sbin");
    assert_eq!(dropped, [".", "a/b", "/x\ny"].map(PathBuf::from));
}

#[test]
fn the_parameters_of_a_unit_without_a_line_of_them_are_read_from_its_directives() {
    let old = stamp(
        r#"[Service]
Environment="PATH=/x/50%% $HOME/\"a\" \\b:/usr/bin"
ExecStart="/opt/100%% $HOME/dockerd-rootless" "--label=\"5%%\" $$HOME" "--debug"
"#,
    );
    assert_eq!(identify(&old), Author::Us);
    let path = Some("/x/50% $HOME/\"a\" \\b:/usr/bin".to_owned());
    let args = ["--label=\"5%\" $HOME", "--debug"].map(str::to_owned).to_vec();
    assert_eq!(parameters(&old), Parameters { path, args });
}

proptest! {
    #[test]
    fn what_is_rendered_is_read_again(
        path in "[^\0]{0,20}",
        args in proptest::collection::vec("[^\0]{1,12}", 0..4),
    ) {
        let program = Path::new("/opt/100% $HOME/dockerd-rootless");
        let text = render_service(program, &path, &args, false).expect("it can be named");
        prop_assert_eq!(identify(&text), Author::Us);
        prop_assert_eq!(parameters(&text), Parameters { path: Some(path), args });
    }

    #[test]
    fn any_text_has_an_author_and_parameters(text in "\\PC*") {
        let _ = (identify(&text), parameters(&text));
    }
}
