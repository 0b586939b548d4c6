//! Health checks of the application that the sidecar makes on behalf of a kubelet.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sidegate_core::Secret;

use crate::value::Span;

/// A health check of the application; exactly one of `http`, `tcp` and `grpc` is set.
///
/// Anyone who reaches `admin.listen` learns whether the application answers, and nothing else of its answer.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The path of the admin port at which it is asked for, such as `/probe/web/readiness`. It begins with `/probe/`.
    #[schemars(length(max = 256))]
    pub path: String,
    /// A GET: healthy if the status is 200 to 399. Redirects are not followed.
    #[serde(default)]
    pub http: Option<HttpProbe>,
    /// A connection: healthy if the application accepts it.
    #[serde(default)]
    pub tcp: Option<TcpProbe>,
    /// gRPC's health checking protocol: healthy if the answer is `SERVING`.
    #[serde(default)]
    pub grpc: Option<GrpcProbe>,
    /// For the whole check. Default 1s.
    #[serde(default = "second")]
    pub timeout: Span,
}

impl Probe {
    /// How long the whole check may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.timeout.duration()
    }
}

/// A check by HTTP/1.1, on a connection of its own over loopback.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// The application's port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The path to ask for, with its query if it has one. Default `/`.
    #[serde(default = "root")]
    #[schemars(length(max = 4096))]
    pub path: String,
    /// Default `http`.
    #[serde(default)]
    pub scheme: ProbeScheme,
    /// The `Host` header, and the server name of TLS. Default: the address that is dialled.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub host: Option<String>,
    /// Further headers. One that is called `Host` replaces `host`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub headers: Vec<ProbeHeader>,
}

/// How a check by HTTP reaches the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProbeScheme {
    /// Plaintext, over loopback.
    #[default]
    Http,
    /// TLS 1.3; the application's certificate is not verified, as a kubelet does not verify it.
    Https,
}

/// A header of a check by HTTP.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeHeader {
    /// Its name.
    #[schemars(length(max = 256))]
    pub name: String,
    /// Its value. It may be a token, so it is never shown.
    #[schemars(schema_with = "secret")]
    pub value: Secret,
}

/// A check by TCP, over loopback.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// The application's port.
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// A check by gRPC without TLS, over loopback.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcProbe {
    /// The application's port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Which service is asked about. Default: the server as a whole.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub service: String,
}

/// Kubernetes' default.
fn second() -> Span {
    Span::seconds(1)
}

fn root() -> String {
    "/".to_owned()
}

fn secret(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "secret", "maxLength": 4096 })
}
