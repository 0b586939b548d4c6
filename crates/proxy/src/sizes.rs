//! Budgets for what an idle connection holds: ten thousand of them are ten thousand times this.

use std::net::Ipv4Addr;

use sidegate_core::ClientAddr;
use tokio::net::{TcpListener, TcpStream};

use crate::attempt::tests::shared;
use crate::inbound::{self, inbound};
use crate::outbound::{self, outbound};
use crate::peer_channel::PeerChannel;
use crate::registry::ConnectionHandle;

async fn tcp() -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
}

/// In bytes; a commit that needs more says what for. The runtime adds 104 to a task: these fill what the allocator gives
/// out, which is 1,280 and 1,536.
#[tokio::test]
async fn what_a_connection_holds_stays_within_its_budget() {
    let shared = shared();
    let from: ClientAddr = (Ipv4Addr::LOCALHOST, 1).into();
    let sizes = [
        (
            "the task of an outbound connection",
            size_of_val(&outbound(shared.clone(), Box::new((tcp().await, from, outbound::Route::Redirected)))),
            1176,
        ),
        (
            "the task of an inbound connection",
            size_of_val(&inbound(shared.clone(), Box::new((tcp().await, from, inbound::Route::Redirected)))),
            1432,
        ),
        ("a session", size_of::<PeerChannel>(), 1024),
        ("a record", size_of::<sidegate_core::ConnectionRecord>(), 608),
        ("an entry of the registry", size_of::<ConnectionHandle>(), 320),
    ];
    let over: Vec<_> = sizes.iter().filter(|(_, size, budget)| size > budget).collect();
    assert!(over.is_empty(), "{over:?} of {sizes:?}");
}
