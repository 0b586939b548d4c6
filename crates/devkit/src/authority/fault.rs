//! Misbehaviour on demand: what a Workload API may do wrong, so that its consumers can be tested against it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_config::value::Span;
use tonic::Status;

/// How the authority misbehaves. It shows on every call and on every open stream at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// It does not.
    #[default]
    None,
    /// Calls are accepted and never answered; open streams fall silent.
    Hang,
    /// Connections are cut, and new ones as soon as they are accepted.
    Reset,
    /// Every call and stream ends with `Unavailable`.
    Unavailable,
    /// Every call and stream ends with `PermissionDenied`.
    PermissionDenied,
    /// Every call and stream ends with `InvalidArgument`.
    InvalidArgument,
    /// Certificates, tokens and key sets are random bytes.
    Garbage,
    /// Responses are well formed and hold nothing.
    Empty,
    /// SVIDs become valid only after this long.
    ClockSkew(
        #[serde(with = "span")]
        #[schemars(with = "Span")]
        Duration,
    ),
    /// SVIDs expired minutes ago.
    Expired,
}

impl Fault {
    /// The status that ends every call under this fault, where it is of that kind.
    pub(crate) fn status(&self) -> Option<Status> {
        let text = "a fault was asked for";
        match self {
            Fault::Unavailable => Some(Status::unavailable(text)),
            Fault::PermissionDenied => Some(Status::permission_denied(text)),
            Fault::InvalidArgument => Some(Status::invalid_argument(text)),
            _ => None,
        }
    }

    /// Whether nothing is to be said. Under a reset the connection is cut: a status could overtake that.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Fault::Hang | Fault::Reset)
    }
}

/// Random bytes that parse as nothing.
pub(crate) fn garbage() -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::u8(..)).take(512).collect()
}

/// A `Duration` written as configuration writes it.
mod span {
    use super::{Deserialize, Duration, Serialize, Span};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Span(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Span::deserialize(deserializer).map(|span| span.0)
    }
}
