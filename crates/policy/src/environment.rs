//! The typed variables of a `when` condition.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, IdedExpr, Value};
use sidegate_core::SpiffeId;
use time::OffsetDateTime;

use crate::query::Query;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableType {
    /// true or false.
    Bool,
    /// A whole number.
    Int,
    /// A text.
    Text,
}

impl fmt::Display for VariableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Text => "a text",
        })
    }
}

/// Every variable: its object, its name, its type, whether it is always known, and what it is.
pub const VARIABLES: &[(&str, &str, VariableType, bool, &str)] = &[
    ("peer", "id", VariableType::Text, false, "SPIFFE ID of the other end"),
    ("peer", "trustDomain", VariableType::Text, false, "its trust domain"),
    ("peer", "path", VariableType::Text, false, "the path of its SPIFFE ID, with the first slash"),
    ("peer", "address", VariableType::Text, true, "its IP address"),
    ("peer", "serial", VariableType::Text, false, "the serial number of its certificate, hexadecimal"),
    ("peer", "notAfter", VariableType::Int, false, "the end of its certificate, seconds since the epoch"),
    ("local", "id", VariableType::Text, false, "our own SPIFFE ID"),
    ("local", "trustDomain", VariableType::Text, false, "our trust domain"),
    ("local", "path", VariableType::Text, false, "the path of our SPIFFE ID"),
    ("connection", "direction", VariableType::Text, true, "`inbound` or `outbound`, as the workload sees it"),
    ("connection", "address", VariableType::Text, true, "the IP address that is connected to"),
    ("connection", "port", VariableType::Int, true, "the port that is connected to"),
    ("connection", "sni", VariableType::Text, false, "the server name that the client asked for"),
    ("connection", "destination", VariableType::Text, false, "the name of the configured destination, outbound"),
    ("connection", "tlsVersion", VariableType::Text, false, "`1.3` or `1.2`"),
    ("connection", "group", VariableType::Text, false, "the key exchange group, such as `X25519MLKEM768`"),
    ("connection", "resumed", VariableType::Bool, false, "whether the TLS session was resumed"),
    ("time", "unix", VariableType::Int, true, "seconds since the epoch"),
    ("time", "year", VariableType::Int, true, "the year, UTC like all that follow"),
    ("time", "month", VariableType::Int, true, "1 to 12"),
    ("time", "day", VariableType::Int, true, "1 to 31"),
    ("time", "weekday", VariableType::Int, true, "1 for Monday to 7 for Sunday"),
    ("time", "hour", VariableType::Int, true, "0 to 23"),
    ("time", "minute", VariableType::Int, true, "0 to 59"),
];

const ROOTS: [&str; 4] = ["peer", "local", "connection", "time"];

/// CEL's own operators and functions, which all evaluations share.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

pub(crate) fn is_root(name: &str) -> bool {
    ROOTS.contains(&name)
}

pub(crate) fn roots() -> String {
    ROOTS.join(", ")
}

/// The type of a field.
pub(crate) fn field(root: &str, name: &str) -> Option<VariableType> {
    VARIABLES.iter().find(|(r, n, ..)| *r == root && *n == name).map(|(_, _, kind, ..)| *kind)
}

/// The names of an object's fields.
pub(crate) fn fields(root: &str) -> String {
    VARIABLES.iter().filter(|(r, ..)| *r == root).map(|(_, name, ..)| *name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn unknown_field(root: &str, name: &str) -> String {
    if is_root(root) {
        format!("`{root}` has no `{name}`; it has {}", fields(root))
    } else {
        format!("`{root}` is not known; there are {}", roots())
    }
}

/// The value of an expression that uses no variable.
pub(crate) fn evaluate_constant(expression: &IdedExpr) -> Result<Value, ExecutionError> {
    Value::resolve(expression, &Context::with_env(STANDARD.clone()))
}

/// The value of an expression for a connection.
pub(crate) fn evaluate(expression: &IdedExpr, query: &Query<'_>) -> Result<Value, ExecutionError> {
    let variables = Variables(query);
    let mut context = Context::with_env(STANDARD.clone());
    context.set_variable_resolver(&variables);
    Value::resolve(expression, &context)
}

/// A connection as variables. A variable is computed only when it is used.
struct Variables<'a>(&'a Query<'a>);

/// A variable's value.
enum KnownVariable<'a> {
    Bool(bool),
    Int(i64),
    Text(Cow<'a, str>),
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        match name.split_once('.') {
            Some((root, field)) => self.known(root, field).map(|known| match known {
                KnownVariable::Bool(value) => CowVal::owned(CelBool::from(value)),
                KnownVariable::Int(value) => CowVal::owned(CelInt::from(value)),
                KnownVariable::Text(value) => CowVal::owned(CelString::from(value)),
            }),
            None => self.object(name),
        }
    }
}

impl<'a> Variables<'a> {
    /// A whole object: for `has`, and to say that there is no such field.
    fn object<'b>(&self, root: &str) -> Option<CowVal<'b, 'b>> {
        let fields = VARIABLES.iter().filter(|(r, ..)| *r == root).filter_map(|(_, name, ..)| {
            let value = match self.known(root, name)? {
                KnownVariable::Bool(value) => Value::Bool(value),
                KnownVariable::Int(value) => Value::Int(value),
                KnownVariable::Text(value) => Value::from(value.into_owned()),
            };
            Some(((*name).to_owned(), value))
        });
        let object = Value::from(fields.collect::<HashMap<String, Value>>());
        object.try_into().ok().map(CowVal::Owned)
    }

    fn known(&self, root: &str, name: &str) -> Option<KnownVariable<'a>> {
        let query = self.0;
        let text = |text: &'a str| KnownVariable::Text(text.into());
        let shown = |value: IpAddr| KnownVariable::Text(value.to_canonical().to_string().into());
        let identity = |id: Option<&'a SpiffeId>| {
            id.and_then(|id| match name {
                "id" => Some(KnownVariable::Text(id.to_string().into())),
                "trustDomain" => Some(text(id.trust_domain_name())),
                "path" => Some(text(id.path())),
                _ => None,
            })
        };
        match (root, name) {
            ("peer", "address") => Some(shown(query.peer_address())),
            ("peer", "serial") => Some(text(query.certificate?.serial)),
            ("peer", "notAfter") => Some(KnownVariable::Int(query.certificate?.not_after)),
            ("peer", _) => identity(query.peer()),
            ("local", _) => identity(query.local()),
            ("connection", "direction") => Some(text(query.direction.label())),
            ("connection", "address") => Some(shown(query.to.ip())),
            ("connection", "port") => Some(KnownVariable::Int(query.to.port().into())),
            ("connection", "sni") => query.sni.map(text),
            ("connection", "destination") => query.destination.map(text),
            ("connection", "tlsVersion") => Some(text(query.tls?.version)),
            ("connection", "group") => query.tls?.group.map(text),
            ("connection", "resumed") => Some(KnownVariable::Bool(query.tls?.resumed)),
            ("time", _) => clock(query, name).map(KnownVariable::Int),
            _ => None,
        }
    }
}

fn clock(query: &Query<'_>, name: &str) -> Option<i64> {
    let seconds = query.time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    match name {
        "unix" => Some(seconds),
        "year" => Some(now.year().into()),
        "month" => Some(u8::from(now.month()).into()),
        "day" => Some(now.day().into()),
        "weekday" => Some(now.weekday().number_from_monday().into()),
        "hour" => Some(now.hour().into()),
        "minute" => Some(now.minute().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{KnownFacts, PeerCertificate, TlsFacts};
    use crate::when::When;
    use sidegate_core::Direction;
    use std::time::Duration;

    /// Each variable has the type that it is declared with, where it is known, and is absent where it is not.
    #[test]
    fn the_environment_is_what_it_is_declared_to_be() {
        let (client, server) = (SpiffeId::new("spiffe://a.b/ns/x/web").unwrap(), SpiffeId::new("spiffe://c.d/db").unwrap());
        // A Wednesday.
        let time = UNIX_EPOCH + Duration::from_secs(1_795_635_000);
        let (client_address, to) = ("::ffff:10.0.0.1".parse().unwrap(), "10.0.0.2:5432".parse().unwrap());
        let bare = Query::new(KnownFacts { direction: Direction::Inbound, client_address, to, time });
        let full = Query {
            client: Some(&client),
            server: Some(&server),
            sni: Some("db.example"),
            destination: Some("db"),
            tls: Some(TlsFacts { version: "1.3", group: Some("X25519"), resumed: true }),
            certificate: Some(PeerCertificate { serial: "0A", not_after: 7 }),
            ..bare
        };
        for (root, name, kind, always, _) in VARIABLES {
            let same = match kind {
                VariableType::Bool => format!("{root}.{name} || !{root}.{name}"),
                VariableType::Int => format!("{root}.{name} + 0 == {root}.{name}"),
                VariableType::Text => format!("{root}.{name}.size() > 0"),
            };
            let when = When::compile(&same).unwrap();
            assert_eq!(when.holds(&full), Ok(true), "{same}");
            assert_eq!(when.holds(&bare).is_ok(), *always, "{same}");
            let has = When::compile(&format!("has({root}.{name})")).unwrap();
            assert_eq!((has.holds(&full), has.holds(&bare)), (Ok(true), Ok(*always)), "{root}.{name}");
        }
        for text in [
            "peer.id == 'spiffe://a.b/ns/x/web' && peer.trustDomain == 'a.b' && peer.path == '/ns/x/web' && peer.address == '10.0.0.1'",
            "local.id == 'spiffe://c.d/db' && connection.port == 5432 && connection.address == '10.0.0.2'",
            "time.year == 2026 && time.month == 11 && time.day == 25 && time.weekday == 3 && time.hour == 19 && time.minute == 30",
        ] {
            assert_eq!(When::compile(text).unwrap().holds(&full), Ok(true), "{text}");
        }
    }
}
