//! Both ends of a connection on loopback.

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sidegate_identity::Material;
use sidegate_tls::{ClientChoice, Filled, HandshakeFailure, SealError, ServerName, Session, TlsContext, WireError, accept};
use tokio::net::{TcpListener, TcpStream};

/// Two connected sockets: who accepted, who connected.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, connected) = tokio::join!(listener.accept(), connecting);
    (accepted.unwrap().0, connected.unwrap())
}

/// One end after its handshake. The socket is still open, so that what was said last arrives.
pub(crate) struct End {
    pub(crate) tcp: TcpStream,
    pub(crate) outcome: Result<Session, HandshakeFailure>,
}

impl End {
    pub(crate) fn failure(&self) -> &HandshakeFailure {
        self.outcome.as_ref().err().unwrap()
    }

    pub(crate) fn session(self) -> (TcpStream, Session) {
        (self.tcp, self.outcome.unwrap_or_else(|failure| panic!("{failure:?}")))
    }

    pub(crate) fn parts(&mut self) -> (&TcpStream, &mut Session) {
        (&self.tcp, self.outcome.as_mut().unwrap_or_else(|failure| panic!("{failure:?}")))
    }
}

/// Server and client shake hands.
pub(crate) async fn shake(server: &Material, client: &Material) -> (End, End) {
    shake_with_alpn((server, &[]), (client, &[])).await
}

pub(crate) async fn shake_with_alpn(server: (&Material, &[&str]), client: (&Material, &[&str])) -> (End, End) {
    let protocols = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let choice = TlsContext::new(server.0).unwrap().server(&protocols(server.1));
    let config = TlsContext::new(client.0).unwrap().client(&protocols(client.1), false);
    let (server_tcp, client_tcp) = sockets().await;
    let name = ServerName::try_from("web.prod.example").unwrap();
    let (server, client) = within(async { tokio::join!(accept(&server_tcp, b"", &choice), connect(&client_tcp, &config, name)) }).await;
    (End { tcp: server_tcp, outcome: server }, End { tcp: client_tcp, outcome: client })
}

/// What hangs fails.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap()
}

/// Shakes hands and sends what is left to send.
pub(crate) async fn connect(tcp: &TcpStream, choice: &ClientChoice, name: ServerName<'static>) -> Result<Session, HandshakeFailure> {
    let mut session = sidegate_tls::connect(tcp, choice, name).await?;
    let _ = poll_fn(|cx| session.poll_flush(tcp, cx)).await;
    Ok(session)
}

/// The plaintext that has come, at most `most` bytes of it.
pub(crate) fn take(session: &mut Session, most: usize) -> Vec<u8> {
    let Some((bytes, chunks)) = session.plaintext() else { return Vec::new() };
    let all = chunks.iter().flat_map(|chunk| &bytes[chunk.start as usize..chunk.end as usize]);
    let taken: Vec<u8> = all.take(most).copied().collect();
    session.take(taken.len());
    taken
}

/// Reads until the peer's close_notify.
pub(crate) async fn read_to_end(tcp: &TcpStream, session: &mut Session) -> Result<Vec<u8>, WireError> {
    let mut all = Vec::new();
    while within(poll_fn(|cx| session.poll_fill(tcp, cx))).await? == Filled::Data {
        all.extend(take(session, usize::MAX));
    }
    Ok(all)
}

/// Seals some of `data` once all before is sent.
pub(crate) fn poll_write(session: &mut Session, tcp: &TcpStream, cx: &mut Context<'_>, mut data: &[u8]) -> Poll<Result<usize, WireError>> {
    ready!(session.poll_flush(tcp, cx))?;
    let copy = |rooms: &mut [IoSliceMut<'_>]| {
        let mut copied = 0;
        for room in rooms {
            let length = room.len().min(data.len());
            room[..length].copy_from_slice(&data[..length]);
            data = &data[length..];
            copied += length;
        }
        Ok(Some(copied))
    };
    let taken = match session.seal_from(None, copy) {
        Ok(taken) => taken.unwrap(),
        Err(SealError::Session(error)) => return Poll::Ready(Err(error)),
        Err(SealError::Read(error)) => panic!("{error}"),
    };
    if let Poll::Ready(Err(error)) = session.poll_flush(tcp, cx) {
        return Poll::Ready(Err(error));
    }
    Poll::Ready(Ok(taken))
}

/// Writes all of `data` and flushes it.
pub(crate) async fn write_all(tcp: &TcpStream, session: &mut Session, mut data: &[u8]) -> Result<(), WireError> {
    while !data.is_empty() {
        data = &data[within(poll_fn(|cx| poll_write(session, tcp, cx, data))).await?..];
    }
    within(poll_fn(|cx| session.poll_flush(tcp, cx))).await
}

pub(crate) async fn shutdown(tcp: &TcpStream, session: &mut Session) -> Result<(), WireError> {
    within(poll_fn(|cx| session.poll_shutdown(tcp, cx))).await
}
