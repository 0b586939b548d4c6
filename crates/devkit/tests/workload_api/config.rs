//! What the authority is told, and how it objects.

use std::time::Duration;

use sidegate_devkit::authority::{Authority, AuthorityConfig, AuthorityError, Fault};

fn parse(json: serde_json::Value) -> Result<AuthorityConfig, serde_json::Error> {
    serde_json::from_value(json)
}

#[tokio::test]
async fn all_problems_are_named_at_once() {
    let config = parse(serde_json::json!({
        "sockets": ["/tmp/x.sock", "/tmp/x.sock", "/".repeat(200)],
        "trustDomains": [
            { "name": "A.test" },
            { "name": "b.test", "ttl": "4s", "federatesWith": ["b.test", "c.test"] },
            { "name": "b.test" },
        ],
        "entries": [
            { "spiffeId": "web" },
            { "spiffeId": "spiffe://b.test" },
            { "spiffeId": "spiffe://d.test/web", "ttl": "400d" },
            { "spiffeId": "spiffe://b.test/x", "path": "bin/x", "socket": "/tmp/y.sock", "dnsNames": ["ok.test", "-"] },
            { "spiffeId": "spiffe://b.test/y", "uid": 1 },
            { "spiffeId": "spiffe://b.test/y", "uid": 1 },
        ],
    }))
    .unwrap();
    let error = Authority::start(config).await.unwrap_err();
    let AuthorityError::Config(problems) = &error else { panic!("{error}") };
    let places: Vec<_> = problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(
        places,
        [
            "sockets[1]",
            "sockets[2]",
            "trustDomains[0].name",
            "trustDomains[1].ttl",
            "trustDomains[1].federatesWith[0]",
            "trustDomains[1].federatesWith[1]",
            "trustDomains[2].name",
            "entries[0].spiffeId",
            "entries[1].spiffeId",
            "entries[2].spiffeId",
            "entries[2].ttl",
            "entries[3].path",
            "entries[3].socket",
            "entries[3].dnsNames[1]",
            "entries[5]",
        ]
    );
    let text = error.to_string();
    assert!(problems.iter().all(|problem| text.contains(&problem.to_string())), "{text}");

    let AuthorityError::Config(problems) = Authority::start(AuthorityConfig::default()).await.unwrap_err() else {
        panic!("nothing at all should be refused")
    };
    assert_eq!(problems.iter().map(|problem| problem.at.as_str()).collect::<Vec<_>>(), ["sockets", "trustDomains"]);
}

#[test]
fn configuration_reads_as_documented() {
    let json = serde_json::json!({
        "sockets": ["/run/x.sock"],
        "trustDomains": [{ "name": "a.test", "ttl": "90s", "federatesWith": [] }],
        "entries": [{ "spiffeId": "spiffe://a.test/web", "gid": 7 }],
        "fault": { "clockSkew": "5m" },
    });
    let config = parse(json).unwrap();
    assert_eq!(config.fault, Some(Fault::ClockSkew(Duration::from_secs(300))));
    assert_eq!(config.trust_domains[0].ttl.0, Duration::from_secs(90));
    assert_eq!(parse(serde_json::to_value(&config).unwrap()).unwrap(), config, "there and back");

    let config = parse(serde_json::json!({ "sockets": [], "trustDomains": [{ "name": "a.test" }], "fault": "hang" }));
    let config = config.unwrap();
    assert_eq!((config.trust_domains[0].ttl.0, config.fault), (Duration::from_secs(3600), Some(Fault::Hang)));
    assert!(parse(serde_json::json!({ "sockets": [], "trustDomains": [], "socket": "x" })).is_err(), "unknown field");
    let schema = serde_json::to_value(schemars::schema_for!(AuthorityConfig)).unwrap();
    assert!(schema["properties"]["trustDomains"]["description"].is_string());
}
