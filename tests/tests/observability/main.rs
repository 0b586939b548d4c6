//! What a sidecar tells: telemetry, the audit log, the admin API.

mod admin;
mod audit;
mod audit_destinations;
mod collector_outage;
mod redaction;
mod secrets;
mod status_page;
mod telemetry;
mod top;
