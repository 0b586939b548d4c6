//! Capture without root, by mark, in a user namespace; and the errors without permission or without nft.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::*;
use sidegate_devkit::pods::{Support, enter_user_namespace, nft_support, support};
use sidegate_redirect::{Exempt, Plan, RedirectError, apply, remove, verify};

const NOBODY: u32 = 65534;

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    match arguments.first().map(String::as_str) {
        Some("--as-nobody") => as_nobody(),
        Some("--without-nft") => without_nft(),
        Some("--list") => println!("rootless: test"),
        _ => start(),
    }
}

fn start() {
    for support in [support(), nft_support()] {
        if let Support::NotPossible(why) = support {
            assert_ne!(std::env::var("SIDEGATE_REQUIRE_PEERS").as_deref(), Ok("1"), "{why}");
            return println!("SKIPPED: {why}");
        }
    }
    // The file that is open here: nobody may not be able to walk to it.
    let again = || Command::new("/proc/self/exe");
    assert!(again().arg("--as-nobody").uid(NOBODY).gid(NOBODY).current_dir("/").status().unwrap().success());
    assert!(again().arg("--without-nft").env("PATH", "/nowhere").status().unwrap().success());
    println!("rootless: ok");
}

fn as_nobody() {
    for refused in [apply(&plan()).unwrap_err(), verify(&plan()).unwrap_err(), remove().unwrap_err()] {
        assert!(matches!(refused, RedirectError::NotPermitted { .. }), "{refused}");
        assert!(refused.to_string().contains("CAP_NET_ADMIN"), "{refused}");
    }
    enter_user_namespace().unwrap();
    let Pair { network: _network, pod, peer } = pair().expect("root of its own namespace");
    capture(&pod, &Plan { exempt: Exempt::Mark(0x77), ..plan() });
    for address in addresses(&peer) {
        let (service, sidecar) = (listen(&peer, address, 8080), listen_as(&pod, loopback(address), OUTBOUND, As::Mark(0x77)));
        connect(&pod, (address, 8080), As::App).unwrap();
        assert_eq!(accept(&sidecar).1, (address, 8080).into());
        connect(&pod, (address, 8080), As::Mark(0x77)).unwrap();
        service.accept().unwrap();
    }
    assert!(pod.run(remove).unwrap().unwrap());
}

fn without_nft() {
    let error = apply(&plan()).unwrap_err();
    assert!(matches!(error, RedirectError::NftMissing), "{error}");
    assert!(error.to_string().contains("install"), "{error}");
}
