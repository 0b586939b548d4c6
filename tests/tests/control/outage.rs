//! The identity source hangs, is gone, comes back, sends nonsense, withdraws.

use std::time::Duration;

use sidegate_devkit::authority::Fault;
use sidegate_tests::{Echo, Identities, Pair, Sidecar, client_config, echo_bytes, eventually};

const HOUR: Duration = Duration::from_secs(3600);

fn not_ready(sidecar: &Sidecar) -> String {
    eventually("readiness to revert", || sidecar.ask("/readyz").filter(|(status, _)| *status == 503)).1
}

/// Whatever the agent does, material in use stays in use; and the sidecar says what is wrong.
#[test]
fn an_outage_is_survived_and_named() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let authority = &pair.identities.authority;
    for (fault, says) in [
        (Fault::Unavailable, "Unavailable"),
        (Fault::Garbage, "its message can't be used"),
        (Fault::Empty, "its message can't be used"),
        (Fault::Expired, "expired at 20"),
        (Fault::ClockSkew(HOUR), "is not valid before"),
        (Fault::Reset, ""),
    ] {
        let lines = pair.web.log().lines().count();
        authority.set_fault(fault.clone());
        eventually(&format!("the report of {fault:?}"), || {
            let log = pair.web.log();
            log.lines().skip(lines).any(|line| line.contains("WARN") && line.contains(says)).then_some(())
        });
        echo_bytes(pair.entry, 10_000, 1).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(pair.web.ask("/readyz").unwrap().0, 200, "{fault:?}");
        let before = pair.web.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}");
        authority.set_fault(Fault::None);
        eventually(&format!("recovery from {fault:?}"), || {
            (pair.web.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}") > before).then_some(())
        });
    }
}

/// The socket is absent at the start, and again later: waited for, never a crash.
#[test]
fn an_absent_agent_is_waited_for() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let config = client_config(&pair.identities, ([127, 0, 0, 1], sidegate_tests::free_port()).into(), pair.port);
    let socket = pair.identities.socket("web");
    let away = socket.with_extension("away");
    std::fs::rename(&socket, &away).unwrap();
    let late = Sidecar::start(pair.identities.folder(), "late", &config);
    eventually("liveness", || late.ask("/livez").filter(|(status, _)| *status == 200));
    eventually("the cause in /readyz", || late.ask("/readyz").filter(|(s, why)| *s == 503 && why.contains("No such file")));
    assert_eq!(late.ask("/startupz").unwrap().0, 503);
    std::fs::rename(&away, &socket).unwrap();
    late.wait_ready();
    assert_eq!(late.ask("/startupz").unwrap().0, 200);
}

/// The agent is gone for good: served until the SVID expires, then refused with the reason, and ready no more.
#[test]
fn readiness_follows_the_validity_of_the_svid() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, Duration::from_secs(5), "");
    let authority = &pair.identities.authority;
    echo_bytes(pair.entry, 1000, 1).unwrap();
    authority.set_fault(Fault::Unavailable);
    let why = not_ready(&pair.web);
    assert!(why.contains("no valid X.509-SVID") && why.contains("Unavailable"), "{why}");
    assert!(echo_bytes(pair.entry, 1000, 2).is_err());
    pair.web.reason("not_ready");
    authority.set_fault(Fault::None);
    pair.web.wait_ready();
    pair.api.wait_ready();
    echo_bytes(pair.entry, 1000, 3).unwrap();
}

/// PermissionDenied withdraws the identity, but only after the grace; it comes back when the entry does.
#[test]
fn permission_denied_withdraws_after_the_grace() {
    let echo = Echo::start();
    let identities = Identities::start(&["web", "api"], HOUR);
    let (entry, port) = (([127, 0, 0, 1], sidegate_tests::free_port()).into(), ([127, 0, 0, 1], sidegate_tests::free_port()).into());
    let api = Sidecar::start(identities.folder(), "api", &sidegate_tests::server_config(&identities, port, echo.address));
    let config = client_config(&identities, entry, port).replace("identity: {", "identity: { permissionDeniedGrace: 2s,");
    let web = Sidecar::start(identities.folder(), "web", &config);
    api.wait_ready();
    web.wait_ready();
    identities.authority.set_fault(Fault::PermissionDenied);
    eventually("the refusal", || web.log().contains("it refuses this workload").then_some(()));
    assert_eq!(web.ask("/readyz").unwrap().0, 200, "the grace is not over");
    echo_bytes(entry, 1000, 1).unwrap();
    let why = not_ready(&web);
    assert!(why.contains("it refuses this workload"), "{why}");
    assert!(echo_bytes(entry, 1000, 2).is_err());
    identities.authority.set_fault(Fault::None);
    web.wait_ready();
    api.wait_ready();
    echo_bytes(entry, 1000, 3).unwrap();
}

/// InvalidArgument does not go away by asking again: it is asked once, and said so.
#[test]
fn invalid_argument_is_not_retried() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    pair.identities.authority.set_fault(Fault::InvalidArgument);
    eventually("the report", || pair.web.log().contains("not asked again").then_some(()));
    echo_bytes(pair.entry, 1000, 1).unwrap();
    assert_eq!(pair.web.log().matches("InvalidArgument").count(), 1);
}

/// A hanging agent is given up and asked anew.
#[test]
fn a_hanging_agent_is_asked_again() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    pair.identities.authority.set_fault(Fault::Hang);
    let config = client_config(&pair.identities, ([127, 0, 0, 1], sidegate_tests::free_port()).into(), pair.port);
    let late = Sidecar::start(pair.identities.folder(), "late", &config);
    eventually("the deadline", || late.log().contains("did not answer within 10 s").then_some(()));
    echo_bytes(pair.entry, 1000, 1).unwrap();
    pair.identities.authority.set_fault(Fault::None);
    late.wait_ready();
}

/// The agent's process ends, and another comes in its place with a new CA.
#[test]
fn an_agent_that_is_gone_and_back_is_found_again() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "");
    let (entry, web, api) = (pair.entry, &pair.web, &pair.api);
    let rotations = |sidecar: &Sidecar| sidecar.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}");
    pair.identities.replace(|| {
        for sidecar in [web, api] {
            eventually("the report", || sidecar.log().contains("can't be reached").then_some(()));
            assert_eq!(sidecar.ask("/readyz").unwrap().0, 200);
        }
        echo_bytes(entry, 1000, 1).unwrap();
    });
    eventually("both to have SVIDs of the new CA", || (rotations(web) >= 1.0 && rotations(api) >= 1.0).then_some(()));
    echo_bytes(entry, 1000, 2).unwrap();
}
