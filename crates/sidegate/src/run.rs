//! The sidecar: everything wired together, and its life from start to drain.

use std::ops::Add;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use sidegate_admin::{AdminSocket, Controls, DrainState, ProbeServer, ServiceManager, StatusPage, drain};
use sidegate_audit::{Audit, Event, IdentityCell, follow_identity, follow_secrets};
use sidegate_checks::{Examined, Unusable, destinations, doubts, examine, in_plaintext, notes, wrong_user};
use sidegate_config::schema::telemetry::{Signal, Target};
use sidegate_config::schema::{ADMIN_SOCKET, Profile};
use sidegate_config::{Config, Draft};
use sidegate_control::{Control, PolicySource, Publisher, RevocationSource, Settings};
use sidegate_core::{Reason, event};
use sidegate_identity::Identity;
use sidegate_proxy::{
    Capture, Listeners, Phase, Shared, Workers, check_descriptors, cpu_quota, prove_capture, raise_descriptor_limit, reevaluate,
};
use sidegate_redirect::Proof;
use sidegate_telemetry::{Logging, Telemetry, TelemetryOptions, TlsSource, start_logging, with_telemetry};
use sidegate_tls::CollectorConfig;
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::watch;

use crate::output::{log_format, say_lines};
use crate::{cli, variables};

/// Runs the sidecar until it is told to end.
pub(crate) fn run(arguments: &cli::RunArgs) -> Result<()> {
    let file = &arguments.config.config;
    if arguments.print_config {
        let draft = Draft::read(file);
        variables::print(&draft.warnings);
        let config = draft.accept().map_err(Unusable)?;
        say_lines(&config.to_yaml()?)?;
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = early_signals(&runtime)?;
    let Examined { config, warnings, policy, revocation, proof } = examine(file)?;
    let exports_events = config.telemetry.target(Signal::Logs).is_some() && config.telemetry.logs.events;
    let (layer, events) = if exports_events { Some(sidegate_telemetry::events()) } else { None }.unzip();
    let filter = with_telemetry(&arguments.log, config.telemetry.log_level);
    let logging = start_logging(&filter, log_format(), layer).map_err(Error::msg)?;
    harden(arguments.with_parent);
    if config.profile == Profile::Development {
        tracing::warn!(event = event::PROFILE_DEVELOPMENT, "profile `development`: what weakens protection is only a warning");
    }
    check_user(&config)?;
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(event = event::HARDENING_FAILED, "the limit of descriptors could not be raised: {error}");
    }
    policy.policy().warnings.iter().for_each(|warning| tracing::warn!(event = event::POLICY_WARNING, "{warning}"));
    if let Some(known) = destinations(&config) {
        policy.policy().misdirected(&known).for_each(|warning| tracing::warn!(event = event::POLICY_WARNING, "{warning}"));
    }
    doubts(&config).chain(notes(&config, policy.policy())).for_each(|warning| tracing::warn!(event = event::CONFIG_WARNING, "{warning}"));
    variables::log(&warnings);
    in_plaintext(&config).iter().for_each(|what| tracing::warn!(event = event::CONFIG_PLAINTEXT, "{what}"));
    if let Some(reason) = config.redirect.without_proof.as_ref().filter(|_| config.is_redirected()) {
        tracing::info!(event = event::CAPTURE_UNPROVED, "that the kernel sends the pod's traffic here is not proved: {reason}");
    }
    let settings = Settings::new(&config);
    let workers = config.workers.map_or_else(cpu_quota, usize::from);
    // Bound before anything that may wait, so that an application that starts at once is queued and not refused.
    let listeners = Listeners::bind(&config, &settings, workers)?;
    check_descriptors(&settings)?;
    let admin = config.admin.listen.as_ref().map(|address| ProbeServer::bind(address.0, &config.admin.probes)).transpose()?;
    let socket = admin_socket(&config)?;
    let identity = Arc::new(OnceLock::new());
    let of_collectors = identity.clone();
    let options = TelemetryOptions {
        access_log: config.access_log.format,
        mark: config.redirect.exempt_mark,
        tls: Box::new(move |target| collector_tls(target, of_collectors.clone())),
        events,
        fold: logging.fold.clone(),
        remember: config.admin.serves_page(),
        ..TelemetryOptions::new(&config.telemetry)
    };
    let (telemetry, writers) = Telemetry::start(options).context("telemetry can't be started")?;
    let options = sidegate_audit::AuditOptions {
        config: &config.audit,
        metrics: telemetry.metrics.clone(),
        mark: config.redirect.exempt_mark,
        identity: identity.clone(),
        otlp: telemetry.audit_lines(),
    };
    let (audit, audit_thread) = Audit::start(&options).context("the audit log can't be started")?;
    // It keeps the telemetry thread.
    drop(options);
    audit.record_start(&config, file, env!("CARGO_PKG_VERSION"));
    telemetry.metrics.count_lost_stderr(logging.lost_lines());
    let audit = Arc::new(audit);
    follow_secrets(&audit);
    let shared = Shared::new(Control::new(settings, Arc::new(telemetry), audit));
    shared.capture.send_replace(Capture::new(proof.as_ref()));
    // A failure from here on is the log's last record.
    let served = (|| {
        let workers = Workers::start(&shared, listeners)?;
        tracing::info!(event = event::STARTED, version = env!("CARGO_PKG_VERSION"), config = %file.display(), "started; waiting for the first SVID");
        let listeners = AdminListeners { admin, socket };
        let controlled = runtime.block_on(control(&config, &shared, (policy, revocation, proof), listeners, &identity, &logging, signals));
        // A name that is still being resolved is nothing to wait for.
        runtime.shutdown_background();
        let until = *controlled.as_ref().unwrap_or(&Instant::now().add(reserve(&config)));
        shared.advance(Phase::Ending);
        workers.join(halfway(until));
        controlled
    })();
    if let Err(error) = &served {
        // Workers may have been started before.
        shared.advance(Phase::Ending);
        shared.audit.record(Event::ProcessStopping { why: format!("{error:#}") });
    }
    let until = *served.as_ref().unwrap_or(&Instant::now().add(reserve(&config)));
    // The log of the process itself has a moment after them.
    writers.end_by(until.checked_sub(reserve(&config) / 6).unwrap_or(until));
    drop(shared);
    // First, since it tells of its end by events.
    audit_thread.join(halfway(until));
    writers.join();
    served.map(drop)
}

/// How much of `drain.deadline` is for what comes after the connections: the workers' end, the last records of the audit log,
/// the last exports. All of it waits for others, each of which may hang.
fn reserve(config: &Config) -> Duration {
    (config.telemetry.flush.duration() + AFTER).min(config.drain.deadline.duration() / 4)
}

/// Beside the last exports.
const AFTER: Duration = Duration::from_secs(3);

/// Divides the remaining time, so that the first wait leaves as much for the next one.
fn halfway(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / 2
}

/// The admin socket. Where the default one can't be made nobody asked for it; one that is configured must be there.
fn admin_socket(config: &Config) -> Result<Option<AdminSocket>> {
    let Some(path) = &config.admin.socket else { return Ok(None) };
    match AdminSocket::bind(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if path == Path::new(ADMIN_SOCKET) => {
            tracing::info!(event = event::ADMIN_UNAVAILABLE, "no admin socket: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// TLS towards a collector, with the SVID and bundles that hold at the time if it wants them.
fn collector_tls(target: &Target, identity: IdentityCell) -> TlsSource {
    let config = CollectorConfig::new(target.tls.clone(), &format!("the collector at {}", target.address.host));
    Arc::new(move || {
        let material = identity.get().and_then(|state| state.borrow().material.clone());
        config.current(material).map_err(|e| e.to_string())
    })
}

/// With its own connections captured it would wait for itself.
fn check_user(config: &Config) -> Result<()> {
    match (wrong_user(config, nix::unistd::geteuid().as_raw()), config.profile) {
        (None, _) => {}
        (Some(message), Profile::Production) => anyhow::bail!(message),
        (Some(message), Profile::Development) => tracing::warn!(event = event::CONFIG_WARNING, "{message}"),
    }
    Ok(())
}

/// What the process may not do: leave its memory, which holds keys, in a core file, or be looked into by others.
fn harden(with_parent: bool) {
    use nix::sys::{prctl, resource};
    if let Err(error) = prctl::set_dumpable(false).and_then(|()| resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0)) {
        tracing::warn!(event = event::HARDENING_FAILED, "core dumps could not be turned off: {error}");
    }
    if with_parent && let Err(error) = prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM) {
        tracing::warn!(event = event::HARDENING_FAILED, "this process will outlive its parent: {error}");
    }
}

/// The control plane: identity, snapshots, admin, signals. Returns when everything has drained, with the time at which the process
/// has to have ended.
async fn control(
    config: &Config,
    shared: &Arc<Shared>,
    (policy, revocation, proof): (PolicySource, RevocationSource, Option<Proof>),
    listeners: AdminListeners,
    identity_cell: &IdentityCell,
    logging: &Logging,
    signals: Option<Signals>,
) -> Result<Instant> {
    let mut signals = signals.map_or_else(Signals::new, Ok)?;
    let identity = Identity::start(&config.identity, config.profile)?;
    let _ = identity_cell.set(identity.subscribe());
    // Ended with the runtime.
    let _records = tokio::spawn(follow_identity(shared.audit.clone(), identity.subscribe()));
    let _publisher = Publisher::start(&shared.control, identity.subscribe(), policy, revocation);
    let _reevaluation = tokio::spawn(reevaluate(shared.clone()));
    // Ended with the runtime.
    let _capture = proof.map(|proof| tokio::spawn(prove_capture(shared.clone(), proof)));
    let draining = Arc::new(DrainState::new(config.drain.deadline.duration()));
    // Ended with the runtime.
    let controls = Arc::new(controls(config, shared, logging, &draining)?);
    let page = config.admin.serves_page().then(|| StatusPage::new(controls.clone(), &config.admin.status_page)).transpose()?;
    let _admin = listeners.admin.map(|admin| tokio::spawn(admin.serve(shared.clone(), page)));
    let _socket = listeners.socket.map(|socket| tokio::spawn(socket.serve(controls)));
    let _give_back = tokio::spawn(give_back(shared.phase.subscribe()));
    let service_manager = ServiceManager::from_environment().map(Arc::new);
    // Ended with the runtime.
    let _told = service_manager.clone().map(|manager| tokio::spawn(manager.follow(shared.clone())));
    let mut phase = shared.phase.subscribe();
    let mut is_signalled = tokio::select! {
        name = signals.next() => {
            shared.audit.record(Event::ProcessStopping { why: name.to_owned() });
            tracing::info!(event = event::DRAINING, signal = name, "draining");
            true
        }
        () = draining.begun() => {
            shared.audit.record(Event::ProcessStopping { why: "the admin API".to_owned() });
            tracing::info!(event = event::DRAINING, "draining, as the admin API was told");
            false
        }
        _ = phase.wait_for(|p| *p == Phase::Ending) => anyhow::bail!("the data plane could not go on"),
    };
    if let Some(manager) = &service_manager {
        manager.tell_stopping();
    }
    let end = draining.begin();
    let mut drained = std::pin::pin!(drain(&config.drain, shared, end - reserve(config)));
    loop {
        tokio::select! {
            () = &mut drained => return Ok(end),
            name = signals.next() => if is_signalled {
                tracing::warn!(event = event::ENDING_AT_ONCE, signal = name, open = shared.registry.open(), "second signal: ending at once");
                shared.registry.cut_all(Reason::Cancelled);
                return Ok(end.min(Instant::now() + reserve(config)));
            } else {
                // A preStop hook has begun the drain, and the platform's own signal follows.
                is_signalled = true;
                tracing::info!(event = event::DRAINING, signal = name, "draining already; a second signal ends it at once");
            }
        }
    }
}

/// After the start its code only occupies memory: about half of the program is never needed again.
async fn give_back(mut phase: watch::Receiver<Phase>) {
    // It ends with the process.
    let _ = phase.wait_for(|phase| *phase >= Phase::Serving).await;
    tokio::time::sleep(SETTLED).await;
    match sidegate_system::give_back_code() {
        Ok(bytes) => tracing::debug!(event = event::CODE_GIVEN_BACK, bytes, "the start is over; its code was given back"),
        Err(error) => tracing::debug!(event = event::CODE_GIVEN_BACK, "the code of the start could not be given back: {error}"),
    }
}

/// After the first SVID: collectors have been connected to, and the rest of the start is done.
const SETTLED: Duration = Duration::from_secs(2);

/// The listeners for operators.
struct AdminListeners {
    admin: Option<ProbeServer>,
    socket: Option<AdminSocket>,
}

fn controls(config: &Config, shared: &Arc<Shared>, logging: &Logging, drain: &Arc<DrainState>) -> Result<Controls> {
    let (told, changed) = (logging.filter.clone(), logging.filter.clone());
    Ok(Controls {
        shared: shared.clone(),
        config: config.to_yaml()?,
        profile: config.profile.label().to_owned(),
        log_filter: Box::new(move || told.text()),
        set_log_filter: Box::new(move |text| changed.set(text)),
        drain: drain.clone(),
        started: Instant::now(),
    })
}

/// Handles signals early if this is the first process of its container, for which the kernel drops signals without a handler: a
/// signal during the start is obeyed after it. Any other process is ended by them, which is right before it serves.
fn early_signals(runtime: &tokio::runtime::Runtime) -> Result<Option<Signals>> {
    let _entered = runtime.enter();
    (std::process::id() == 1).then(Signals::new).transpose()
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: UnixSignal,
    interrupt: UnixSignal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
