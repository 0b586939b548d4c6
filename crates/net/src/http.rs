//! An HTTP/1.1 client over a stream that is connected: towards collectors, and for documents such as revocation lists.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// A connection, for one request at a time. Dropping it closes it.
#[derive(Debug)]
pub struct HttpClient {
    sender: http1::SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

impl HttpClient {
    /// Begins to speak HTTP/1.1 over `stream`, with a task on the current runtime that moves the bytes.
    ///
    /// # Errors
    /// hyper's.
    pub async fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, hyper::Error> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async move {
            // The caller that waits for an answer is told of an error by the sender.
            let _ = connection.await;
        });
        Ok(Self { sender, _connection: AbortOnDropHandle::new(task) })
    }

    /// Sends a request and waits for the head of the answer; [`read_body`] reads the rest. Redirections are not followed. The caller sets
    /// the deadline.
    ///
    /// # Errors
    /// hyper's, if there is no answer.
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request.map(Full::new)).await
    }
}

/// Reads a body of at most `most` bytes. The caller sets the deadline.
///
/// # Errors
/// If it can't be read, or is longer.
pub async fn read_body(body: Incoming, most: usize) -> Result<Bytes, String> {
    Limited::new(body, most).collect().await.map(http_body_util::Collected::to_bytes).map_err(|e| e.to_string())
}
