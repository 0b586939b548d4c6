//! Tokens: what is in them, who verifies them, and what is refused.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost_types::value::Kind;
use serde_json::Value;
use sidegate_devkit::authority::Entry;
use sidegate_devkit::authority::workload_api::{JwtBundlesRequest, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest};
use tonic::Code;

use crate::client::{Bench, Client, next, within};

async fn tokens(client: &mut Client, audience: &[&str], spiffe_id: &str) -> Result<Vec<Jwtsvid>, tonic::Status> {
    let audience = audience.iter().map(|&name| name.to_owned()).collect();
    let request = JwtsvidRequest { audience, spiffe_id: spiffe_id.to_owned() };
    within(client.fetch_jwtsvid(request)).await.map(|response| response.into_inner().svids)
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

async fn validate(client: &mut Client, audience: &str, token: &str) -> Result<prost_types::Struct, tonic::Status> {
    let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.to_owned() };
    let response = within(client.validate_jwtsvid(request)).await?.into_inner();
    assert_eq!(response.spiffe_id, "spiffe://a.test/web");
    Ok(response.claims.unwrap())
}

#[tokio::test]
async fn a_token_names_its_subject_audience_and_key() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let token = tokens(&mut client, &["one", "two"], "").await.unwrap().remove(0).svid;
    let (header, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!(header["alg"], "ES256");
    assert_eq!(claims["sub"], "spiffe://a.test/web");
    assert_eq!(claims["aud"], serde_json::json!(["one", "two"]));
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert!((300..=311).contains(&life), "{life}");

    let mut stream = within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await.unwrap().into_inner();
    let set: Value = serde_json::from_slice(&next(&mut stream).await.bundles["spiffe://a.test"]).unwrap();
    let key = &set["keys"][0];
    assert_eq!((&key["kid"], &key["use"]), (&header["kid"], &Value::from("jwt-svid")));
    assert_eq!((&key["kty"], &key["crv"]), (&Value::from("EC"), &Value::from("P-256")));
    for coordinate in ["x", "y"] {
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(key[coordinate].as_str().unwrap()).unwrap().len(), 32);
    }
    assert_eq!(key.as_object().unwrap().len(), 6, "nothing more, and nothing private");
}

#[tokio::test]
async fn only_an_intact_token_for_the_audience_is_valid() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let token = tokens(&mut client, &["one"], "").await.unwrap().remove(0).svid;
    let claims = validate(&mut client, "one", &token).await.unwrap();
    assert_eq!(claims.fields["sub"].kind, Some(Kind::StringValue("spiffe://a.test/web".to_owned())));
    assert!(matches!(claims.fields["exp"].kind, Some(Kind::NumberValue(_))));
    assert!(matches!(claims.fields["aud"].kind, Some(Kind::ListValue(_))));

    let (body, signature) = token.rsplit_once('.').unwrap();
    let swapped: String = signature.chars().rev().collect();
    let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let payload = token.split('.').nth(1).unwrap();
    for (audience, token) in [
        ("two", token.clone()),
        ("", token.clone()),
        ("one", format!("{body}.{swapped}")),
        ("one", format!("{unsigned}.{payload}.")),
        ("one", body.to_owned()),
        ("one", String::new()),
    ] {
        let refused = validate(&mut client, audience, &token).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{audience} {token}: {refused}");
    }
}

#[tokio::test]
async fn one_identity_may_be_asked_for() {
    let bench = Bench::with(|config| {
        config.entries.push(Entry::new("spiffe://a.test/web"));
        config.entries.push(Entry { hint: Some("second".to_owned()), ..Entry::new("spiffe://b.test/web") });
    })
    .await;
    let mut client = bench.client().await;
    let all = tokens(&mut client, &["x"], "").await.unwrap();
    assert_eq!(all.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>(), ["spiffe://a.test/web", "spiffe://b.test/web"]);
    let one = tokens(&mut client, &["x"], "spiffe://b.test/web").await.unwrap();
    assert_eq!((one.len(), one[0].hint.as_str()), (1, "second"));
    let code = |result: Result<Vec<Jwtsvid>, tonic::Status>| result.unwrap_err().code();
    assert_eq!(code(tokens(&mut client, &["x"], "spiffe://a.test/admin").await), Code::PermissionDenied);
    assert_eq!(code(tokens(&mut client, &["x"], "not an id").await), Code::InvalidArgument);
    assert_eq!(code(tokens(&mut client, &[], "").await), Code::InvalidArgument);
}

#[tokio::test]
async fn old_tokens_stay_valid_after_a_key_rotation() {
    let bench = Bench::simple().await;
    let mut client = bench.client().await;
    let old = tokens(&mut client, &["one"], "").await.unwrap().remove(0).svid;
    bench.authority.rotate_ca("a.test").unwrap();
    bench.authority.rotate_ca("a.test").unwrap();
    let new = tokens(&mut client, &["one"], "").await.unwrap().remove(0).svid;
    assert_ne!(part(&old, 0)["kid"], part(&new, 0)["kid"]);
    validate(&mut client, "one", &old).await.unwrap();
    validate(&mut client, "one", &new).await.unwrap();
}
