//! The sidecars' configurations and policies.

use std::path::PathBuf;

use anyhow::Result;

use super::folder::Folder;
use super::topology::{Layout, SERVICE_PORT, Topology};
use super::workload::Workload;

/// What marks the sidecars' packets where there is only one user.
const MARK: u32 = 0x51de;

/// Writes a sidecar's configuration and policy; the configuration's file.
pub(super) fn write(topology: &Topology, workload: Workload, folder: &Folder) -> Result<PathBuf> {
    std::fs::write(folder.policy(workload), policy(topology, workload))?;
    let run = folder.run(workload);
    std::fs::create_dir(&run)?;
    if let Some(uid) = topology.uid(workload) {
        std::os::unix::fs::chown(&run, Some(uid), Some(uid))?;
    }
    let file = folder.config(workload);
    std::fs::write(&file, format!("{}{}", common(topology, workload, folder), listeners(topology, workload)))?;
    Ok(file)
}

fn policy(topology: &Topology, workload: Workload) -> String {
    match workload {
        Workload::Api => format!(
            "rules:\n  - name: web-may-call-api\n    action: allow\n    from: {{ spiffeIds: [\"{}\"] }}\n    to: {{ ports: [{}] }}\n",
            Workload::Web.spiffe_id(),
            topology.service_address().port()
        ),
        Workload::Web | Workload::Intruder => "rules: []\n".to_owned(),
    }
}

/// What all have, each with files of its own.
fn common(topology: &Topology, workload: Workload, folder: &Folder) -> String {
    format!(
        "profile: development\nidentity:\n  sources:\n    - workloadApi: {{ socket: \"unix://{}\" }}\npolicy: {{ files: [\"{}\"] }}\naccessLog: {{ format: json }}\nworkers: 1\nadmin: {{ listen: \"127.0.0.1:{}\", socket: \"{}\" }}\ntelemetry: {{ otlp: {{ endpoint: \"unix://{}\" }}, traces: {{ batch: {{ delay: 100ms }} }}, metrics: {{ interval: 1s }} }}\naudit: {{ file: {{ folder: \"{}\" }}, checkpoint: {{ interval: 1s }} }}\n",
        folder.workload_api(workload).display(),
        folder.policy(workload).display(),
        topology.admin_address(workload).port(),
        folder.admin_socket(workload).display(),
        folder.collector().display(),
        folder.audit_log(workload).display(),
    )
}

/// Where it takes connections, and where they lead.
fn listeners(topology: &Topology, workload: Workload) -> String {
    let expected = Workload::Api.spiffe_id();
    match (&topology.layout, workload) {
        (Layout::Pods(_), _) => {
            let exempt = match topology.uid(workload) {
                Some(uid) => format!("exemptUid: {uid}"),
                None => format!("exemptMark: {MARK}"),
            };
            format!(
                "outbound:\n  destinations:\n    - {{ name: api, cidrs: [10.77.0.0/24], ports: [{SERVICE_PORT}], spiffeIds: [\"{expected}\"] }}\nredirect: {{ {exempt} }}\n"
            )
        }
        (Layout::Loopback(ports), Workload::Api) => format!(
            "inbound:\n  listen: null\n  listeners: [{{ listen: \"127.0.0.1:{}\", to: \"127.0.0.1:{}\" }}]\noutbound: {{ listen: null, listen6: null }}\n",
            ports.api, ports.service
        ),
        (Layout::Loopback(ports), Workload::Web | Workload::Intruder) => format!(
            "inbound: {{ listen: null }}\noutbound:\n  listen: null\n  listen6: null\n  listeners: [{{ name: api, listen: \"{}\", to: \"127.0.0.1:{}\", spiffeIds: [\"{expected}\"] }}]\n",
            topology.api_as_seen_by(workload),
            ports.api
        ),
    }
}
