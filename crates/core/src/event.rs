//! The names of events: the field `event` of a line on standard error, and the event name of a log record.

macro_rules! events {
    ($($constant:ident $name:literal $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*

        /// Every event: its name, and what it says.
        pub const EVENTS: &[(&str, &str)] = &[$(($name, $meaning)),*];
    };
}

events! {
    CONNECTION_ENDED "sidegate.connection.ended" "A connection ended: its record, as in the access log. Only as a log record.";
    CONNECTION_PLAINTEXT "sidegate.connection.plaintext" "A client without TLS was served, on a permissive port.";
    STARTED "sidegate.lifecycle.started" "The process has started and waits for its first SVID.";
    DRAINING "sidegate.lifecycle.draining" "The process was told to end.";
    DRAINED "sidegate.lifecycle.drained" "Nothing is open any more.";
    DRAIN_DEADLINE "sidegate.lifecycle.drain_deadline" "The drain deadline has passed; what was open is cut.";
    ENDING_AT_ONCE "sidegate.lifecycle.ending_at_once" "A second signal: nothing is waited for.";
    SERVICE_MANAGER_UNREACHABLE "sidegate.lifecycle.service_manager_unreachable" "NOTIFY_SOCKET is set, but the service manager, such as systemd, can't be told how the sidecar is doing.";
    CAPTURE_PROVEN "sidegate.capture.proven" "The kernel sends the pod's traffic here, by the rules of this configuration.";
    CAPTURE_MISSING "sidegate.capture.missing" "The kernel rules of this configuration are not in place, so traffic may pass the sidecar by; it is not ready.";
    CAPTURE_UNPROVED "sidegate.capture.unproved" "The configuration says that something else redirects the traffic, so sidegate does not check it.";
    PROFILE_DEVELOPMENT "sidegate.config.development" "The profile is development: what weakens protection is only a warning.";
    TUNNEL_NOT_PREPARED "sidegate.tunnel.not_prepared" "A server of which a session in advance was wanted can't be reached.";
    CONFIG_PLAINTEXT "sidegate.config.plaintext" "The configuration lets connections pass in plaintext: which, and the written reason. Said once, at the start; sidegate.plaintext.connections counts them.";
    CONFIG_WARNING "sidegate.config.warning" "The configuration is allowed, but a person should look at it.";
    CONFIG_VARIABLE "sidegate.config.variable" "An OTEL_* variable has a value that can't be used, and is ignored, or names a file that can't be read. Said once, at the start.";
    IDENTITY_RECEIVED "sidegate.identity.received" "An X.509-SVID with its bundles is in use from now on.";
    IDENTITY_LOST "sidegate.identity.lost" "There is no valid X.509-SVID any more; new connections are refused.";
    IDENTITY_UNUSABLE "sidegate.identity.unusable" "No TLS configuration can be made of an SVID.";
    IDENTITY_CA_LEFT_OUT "sidegate.identity.ca_left_out" "A CA certificate of a bundle may not sign and is left out.";
    SOURCE_TROUBLE "sidegate.identity.source_trouble" "An identity source does not answer, or what it says is of no use.";
    SOURCE_RECOVERED "sidegate.identity.source_recovered" "An identity source answers again.";
    SECRET_ACCESSED "sidegate.secret.accessed" "A file with a secret was read: for the first time, since it holds something else, or since it could not be read.";
    FILES_UNWATCHED "sidegate.files.unwatched" "The system can't watch files; they are looked at from time to time.";
    POLICY_WARNING "sidegate.policy.warning" "The policy is allowed, but a person should look at it.";
    POLICY_RELOADED "sidegate.policy.reloaded" "The policy files have changed and are in use.";
    POLICY_REFUSED "sidegate.policy.refused" "The policy files can't be used; the last good policy stays.";
    REVOCATION_CHANGED "sidegate.revocation.changed" "Revocation lists or deny lists have changed and are in use.";
    REVOCATION_TROUBLE "sidegate.revocation.trouble" "A revocation list or deny list can't be used; its last good state stays.";
    CONNECTIONS_REJUDGED "sidegate.connection.rejudged" "Live connections are ended, since the current snapshot would not admit them, or they are too old.";
    NAME_UNRESOLVED "sidegate.resolver.name_unresolved" "A destination's name can't be resolved; its last addresses stay.";
    DIRECTORY_CONNECTED "sidegate.directory.connected" "The directory says who is expected at an address.";
    DIRECTORY_UNAVAILABLE "sidegate.directory.unavailable" "The directory can't be reached; what it has said stays valid.";
    DIRECTORY_REFUSED "sidegate.directory.refused" "What the directory says of an address can't be used; what was known of it stays.";
    DIRECTORY_SERVED "sidegate.directory.served" "The controller serves the directory.";
    DIRECTORY_CLIENT_REFUSED "sidegate.directory.client_refused" "A client of the directory did not prove to be one that may ask it.";
    CLUSTER_FOLLOWED "sidegate.cluster.followed" "The API server has listed all objects of a kind that the directory follows, or can be followed again.";
    CLUSTER_UNAVAILABLE "sidegate.cluster.unavailable" "The API server can't be followed; the directory says what it knew last.";
    RESOLVER_UNUSABLE "sidegate.resolver.unusable" "The system's resolver configuration is of no use.";
    ACCEPT_FAILED "sidegate.listener.accept_failed" "accept failed; it is tried again.";
    NO_IPV6 "sidegate.listener.no_ipv6" "The kernel has no IPv6; nothing is listened on there.";
    WORKER_FAILED "sidegate.worker.failed" "A worker has failed.";
    LIMIT_LOWERED "sidegate.limits.lowered" "There are fewer descriptors than the configured limits need.";
    CODE_GIVEN_BACK "sidegate.process.code_given_back" "The start is over: code that only it needed is out of memory.";
    HARDENING_FAILED "sidegate.process.hardening_failed" "The system refused what was to protect the process.";
    PROBE_FAILED "sidegate.probe.failed" "The application failed a health check of admin.probes; with the reason.";
    WEBHOOK_SERVED "sidegate.webhook.served" "The controller serves the admission webhook.";
    WEBHOOK_CERTIFICATE "sidegate.webhook.certificate" "The webhook has a new certificate.";
    WEBHOOK_CERTIFICATE_REFUSED "sidegate.webhook.certificate_refused" "The files with the webhook's certificate and key can't be used; the last good certificate stays.";
    WEBHOOK_CONNECTION "sidegate.webhook.connection" "A connection to the webhook ended before its time.";
    POD_INJECTED "sidegate.pod.injected" "A pod got its sidecar.";
    POD_REFUSED "sidegate.pod.refused" "A pod was refused: it can't have a sidecar, or would get around it; with every reason.";
    CNI_INSTALLED "sidegate.cni.installed" "The CNI plugin, or what it needs, was put in place on this node, for the first time or again; which files.";
    CNI_NO_NETWORK "sidegate.cni.no_network" "The node has no network configuration yet in which the CNI plugin could be; it is waited for.";
    ADMIN_UNAVAILABLE "sidegate.admin.unavailable" "The admin port or socket can't be served.";
    ADMIN_CUT "sidegate.admin.cut" "Somebody cut a connection over the admin API.";
    ADMIN_DRAIN "sidegate.admin.drain" "Somebody started the drain over the admin API.";
    ADMIN_LOG_FILTER "sidegate.admin.log_filter" "Somebody changed the log filter over the admin API.";
    EXPORT_FAILING "sidegate.telemetry.export_failing" "A signal does not reach its collector.";
    EXPORT_RECOVERED "sidegate.telemetry.export_recovered" "A signal reaches its collector again.";
    TELEMETRY_LOST "sidegate.telemetry.lost" "Telemetry was dropped: a queue was full, or the process ended first.";
    AUDIT_RECORD "sidegate.audit.record" "A record of the audit log; the body is its JSON. Only as a log record.";
    AUDIT_FAILING "sidegate.audit.failing" "Audit records can't be written, or do not reach a destination.";
    AUDIT_RECOVERED "sidegate.audit.recovered" "They can again.";
    AUDIT_RESUMED "sidegate.audit.resumed" "The audit log goes on after a process that had not closed it.";
    REPEATED "sidegate.log.repeated" "A warning or error came so often that most of them were left out; how many, and the first of these.";
}
