use crate::supervise::machine::*;
use proptest::prelude::*;

/// A death that leads to another start.
const BY_SIGNAL: Death = Death { how: How::Signal(9), permanent: None, left: false };

/// A daemon that says what is wrong and ends.
const BY_CODE: Death = Death { how: How::Code(1), ..BY_SIGNAL };

/// One that ends as it should.
const IN_ORDER: Death = Death { how: How::Code(0), ..BY_SIGNAL };

/// One that a check explains.
const PERMANENT: Death = Death { permanent: Some(Exit::Config), ..BY_CODE };

/// One that leaves its containers.
const ALONE: Death = Death { left: true, ..BY_SIGNAL };

const START: Duration = Duration::from_secs(60);

const EVENTS: [Event; 16] = [
    Event::Announced,
    Event::Answered,
    Event::DaemonEnded(BY_CODE),
    Event::DaemonEnded(IN_ORDER),
    Event::DaemonEnded(ALONE),
    Event::Ended(BY_SIGNAL),
    Event::Ended(BY_CODE),
    Event::Ended(PERMANENT),
    Event::Ended(IN_ORDER),
    Event::Cleared,
    Event::Stop,
    Event::Replace(Why::Asked),
    Event::Replace(Why::Hung),
    Event::RestartAll(Why::Asked),
    Event::Idle,
    Event::Deadline,
];

fn machine(state: State, has_answered: bool) -> Machine {
    let (machine, _) = Machine::start(START);
    Machine { state, has_answered, ..machine }
}

/// Every state that differs in what follows from it.
fn states() -> Vec<(&'static str, Machine)> {
    let (pause, again) = (Duration::from_millis(200), Then::Again(Duration::ZERO));
    let up = |state| machine(state, true);
    let announced = |machine: Machine| Machine { is_announced: true, ..machine };
    let failed = |state| Machine { failures: 2, ..up(state) };
    let stop_owed = |then| Machine { owes_stop: Some(then), ..announced(up(State::Reviving)) };
    vec![
        ("starting for the first time", machine(State::Starting, false)),
        (
            "starting for the first time, dockerd is there",
            announced(machine(State::Starting, false)),
        ),
        ("starting again", up(State::Starting)),
        ("starting again, dockerd is there", announced(up(State::Starting))),
        ("ready", up(State::Ready)),
        ("replacing", up(State::Replacing(Why::Asked))),
        ("replacing after a repeated hang", failed(State::Replacing(Why::Hung))),
        ("pausing", up(State::Pausing)),
        ("reviving", up(State::Reviving)),
        ("reviving after failures", failed(State::Reviving)),
        ("reviving to stop", stop_owed(LEAVE)),
        ("reviving to start everything again", stop_owed(again)),
        ("stopping", up(State::Stopping(LEAVE))),
        ("stopping once more", Machine { stops_again: true, ..up(State::Stopping(LEAVE)) }),
        ("stopping as idle", up(State::Stopping(Then::Leave(Verdict::Idle)))),
        ("stopping to start again", up(State::Stopping(again))),
        ("clearing to leave", up(State::Clearing(LEAVE, false))),
        ("clearing to start later", up(State::Clearing(Then::Again(pause), false))),
        ("clearing to start, killed", up(State::Clearing(again, true))),
        ("clearing to leave, killed", up(State::Clearing(LEAVE, true))),
        ("waiting", up(State::Waiting)),
        ("over", up(State::Over)),
    ]
}

/// The table, a line for each cell in which something follows, and one for those in which nothing
/// does.
fn table() -> String {
    let mut text = String::new();
    for (name, before) in states() {
        text += &format!("{name}\n");
        let mut ignored = Vec::new();
        for event in EVENTS.iter() {
            let mut after = before.clone();
            let effects = after.on(*event);
            let label = match event {
                Event::Ended(death) => format!("Ended({:?}, {:?})", death.how, death.permanent),
                Event::DaemonEnded(death) => format!(
                    "DaemonEnded({:?}{})",
                    death.how,
                    if death.left { ", containers are left" } else { "" }
                ),
                other => format!("{other:?}"),
            };
            if after == before && effects.is_empty() {
                ignored.push(label);
                continue;
            }
            let effects: Vec<String> = effects.iter().map(|effect| format!("{effect:?}")).collect();
            let mut counts = Vec::new();
            if after.restarts != before.restarts {
                counts.push("a restart counts");
            }
            if after.replaced != before.replaced {
                counts.push("a replacement counts");
            }
            if after.owes_stop != before.owes_stop {
                counts.push("what stop is owed changes");
            }
            text += &format!("  {label} -> {:?}", after.state);
            for part in effects.iter().map(String::as_str).chain(counts) {
                text += &format!(", {part}");
            }
            text.push('\n');
        }
        text += &format!("  nothing follows from {}\n", ignored.join(", "));
    }
    text
}

/// `UPDATE_TABLE=1` writes the table anew, to be read after a change of the machine.
#[test]
fn every_cell_of_the_table_is_as_it_was_agreed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/supervise/machine/table.txt");
    if std::env::var_os("UPDATE_TABLE").is_some() {
        std::fs::write(path, table()).expect("write the table");
    }
    let agreed = std::fs::read_to_string(path).expect("read the table");
    for (line, (own, agreed)) in table().lines().zip(agreed.lines()).enumerate() {
        assert_eq!(own, agreed, "line {}", line + 1);
    }
    assert_eq!(table(), agreed);
}

#[test]
fn the_first_restart_comes_at_once_and_the_pauses_grow_to_half_a_minute() {
    let (mut machine, _) = Machine::start(START);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        machine.state = State::Ready;
        machine.has_answered = true;
        let effects = machine.on(Event::Ended(BY_SIGNAL));
        pauses.extend(effects.into_iter().find_map(|effect| match effect {
            Effect::Tell(Notice::Restarting(pause)) => Some(pause.as_millis()),
            _ => None,
        }));
    }
    let expected = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
    assert_eq!(pauses, expected);
    assert_eq!(machine.restarts, 12);
}

#[test]
fn dockerd_alone_is_replaced_whatever_becomes_of_it() {
    let ends: &[&[Event]] = &[
        &[Event::DaemonEnded(BY_CODE)],
        &[Event::DaemonEnded(IN_ORDER)],
        &[Event::DaemonEnded(ALONE)],
        &[Event::Replace(Why::Hung), Event::Deadline, Event::DaemonEnded(ALONE)],
        &[Event::Replace(Why::Asked), Event::DaemonEnded(ALONE)],
    ];
    for events in ends {
        let mut machine = machine(State::Ready, true);
        let events = events.iter().chain(&[Event::Deadline]);
        let effects: Vec<_> = events.clone().flat_map(|event| machine.on(*event)).collect();
        assert_eq!(machine.state, State::Reviving, "{events:?}");
        assert!(effects.contains(&Effect::Revive), "{events:?}");
        assert_eq!((machine.replaced, machine.restarts), (1, 0), "{events:?}");
        machine.on(Event::Announced);
        machine.on(Event::Answered);
        assert_eq!(machine.state, State::Ready);
    }
}

#[test]
fn a_stop_waits_for_the_dockerd_that_can_stop_containers() {
    for state in [State::Replacing(Why::Hung), State::Replacing(Why::Asked), State::Pausing] {
        let mut machine = machine(state, true);
        machine.on(Event::Stop);
        if state != State::Pausing {
            machine.on(Event::Deadline);
            machine.on(Event::DaemonEnded(ALONE));
        }
        assert_eq!(machine.state, State::Reviving, "{state:?}");
        machine.on(Event::Announced);
        let effects = machine.on(Event::Answered);
        assert_eq!(machine.state, State::Stopping(LEAVE), "{state:?}");
        assert!(effects.contains(&Effect::End), "{state:?}");
    }
}

proptest! {
    /// Whatever happens in whatever order: who waits has a deadline, everything is started once and
    /// cleared before it is started again, and two requests to stop lead to the end.
    #[test]
    fn no_order_of_events_leaves_it_waiting_for_ever(order in proptest::collection::vec(0..EVENTS.len(), 0..60)) {
        let (mut machine, effects) = Machine::start(START);
        let mut is_armed = effects.iter().any(|effect| matches!(effect, Effect::Arm(_)));
        let mut left = 0;
        for event in order.into_iter().map(|at| EVENTS[at]) {
            let before = machine.state;
            if event == Event::Deadline {
                if !is_armed {
                    continue;
                }
                is_armed = false;
            }
            // An idle daemon has been given its time to end.
            is_armed |= event == Event::Idle;
            let effects = machine.on(event);
            for effect in &effects {
                match effect {
                    Effect::Arm(_) | Effect::Yield | Effect::End | Effect::KillDaemon => {
                        is_armed = true;
                    }
                    Effect::Disarm => is_armed = false,
                    Effect::Leave(_) => left += 1,
                    Effect::Launch => prop_assert_eq!(before, State::Waiting),
                    // dockerd's own end touches no container, unless it was never up.
                    Effect::Kill | Effect::Clear => prop_assert!(
                        !matches!(event, Event::Replace(_)),
                        "{:?} on {:?}", before, event
                    ),
                    _ => {}
                }
            }
            let waits = !matches!(machine.state, State::Ready | State::Over);
            prop_assert!(is_armed || !waits, "{before:?} on {event:?}: {:?}", machine.state);
            prop_assert_eq!(left, u32::from(machine.state == State::Over));
        }
        for event in [Event::Stop, Event::Stop, Event::Stop, Event::Ended(BY_SIGNAL), Event::Cleared] {
            machine.on(event);
        }
        prop_assert_eq!(machine.state, State::Over);
    }
}
