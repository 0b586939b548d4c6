//! Much data, both ways, and a reader who takes his time.

use std::future::poll_fn;
use std::task::Poll;

use sidegate_tls::{Filled, Session};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::material;
use crate::wire::{poll_write, read_to_end, shake, shutdown, take, within, write_all};

const MUCH: usize = 24 << 20;

/// Bytes of which none is where another should be, as far as that goes.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn pair() -> ((TcpStream, Session), (TcpStream, Session)) {
    let material = material();
    let (server, client) = shake(&material, &material).await;
    (server.session(), client.session())
}

async fn send(tcp: &TcpStream, session: &mut Session, data: &[u8]) {
    write_all(tcp, session, data).await.unwrap();
    shutdown(tcp, session).await.unwrap();
}

#[tokio::test]
async fn who_reads_nothing_is_sent_no_more_than_buffers_hold() {
    let ((server_tcp, mut server), (client_tcp, mut client)) = pair().await;
    SockRef::from(&server_tcp).set_send_buffer_size(64 << 10).unwrap();
    SockRef::from(&client_tcp).set_recv_buffer_size(64 << 10).unwrap();
    let data = pattern(MUCH);
    let mut sent = 0;
    // Nobody reads: the kernel's buffers fill up, then ours, then nothing more is taken.
    let blocked = within(poll_fn(|cx| {
        while sent < data.len() {
            match poll_write(&mut server, &server_tcp, cx, &data[sent..]) {
                Poll::Ready(taken) => sent += taken.unwrap(),
                Poll::Pending => return Poll::Ready(true),
            }
        }
        Poll::Ready(false)
    }))
    .await;
    assert!(blocked && sent > 0 && sent < MUCH / 2, "{sent} bytes were taken");
    let ((), read) = tokio::join!(send(&server_tcp, &mut server, &data[sent..]), read_to_end(&client_tcp, &mut client));
    assert!(read.unwrap() == data);
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let ((server_tcp, mut server), (client_tcp, mut client)) = pair().await;
    let (up, down) = (pattern(MUCH), pattern(MUCH / 2 + 1));
    // Each side is one task that does both, as the relay does.
    let at_server = both(&server_tcp, &mut server, &down);
    let at_client = both(&client_tcp, &mut client, &up);
    let (at_server, at_client) = within(async { tokio::join!(at_server, at_client) }).await;
    assert!(at_server == up);
    assert!(at_client == down);
}

/// Sends `data` and its end while it reads to the peer's end.
async fn both(tcp: &TcpStream, session: &mut Session, data: &[u8]) -> Vec<u8> {
    let (mut sent, mut closed, mut ended) = (0, false, false);
    let mut read = Vec::new();
    poll_fn(|cx| {
        while !closed {
            if sent < data.len() {
                match poll_write(session, tcp, cx, &data[sent..]) {
                    Poll::Ready(taken) => sent += taken.unwrap(),
                    Poll::Pending => break,
                }
            } else {
                match session.poll_shutdown(tcp, cx) {
                    Poll::Ready(done) => closed = done.is_ok(),
                    Poll::Pending => break,
                }
            }
        }
        while !ended {
            match session.poll_fill(tcp, cx) {
                Poll::Ready(filled) => ended = filled.unwrap() == Filled::End,
                Poll::Pending => break,
            }
            read.extend(take(session, usize::MAX));
        }
        if closed && ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    read
}

#[tokio::test]
async fn a_reader_may_take_one_byte_at_a_time() {
    let ((server_tcp, mut server), (client_tcp, mut client)) = pair().await;
    let data = pattern(50_000);
    let reader = async {
        let mut read = Vec::new();
        while poll_fn(|cx| client.poll_fill(&client_tcp, cx)).await.unwrap() == Filled::Data {
            read.extend(take(&mut client, 1));
        }
        read
    };
    let ((), read) = within(async { tokio::join!(send(&server_tcp, &mut server, &data), reader) }).await;
    assert!(read == data);
}
