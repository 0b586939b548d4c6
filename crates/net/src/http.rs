//! An HTTP/1.1 client over a stream that is connected: towards collectors, and for documents such as revocation lists.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
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

    /// Sends a request and reads the answer, whose body may have `most` bytes. Redirections are not followed. The caller sets the
    /// deadline.
    ///
    /// # Errors
    /// hyper's, if there is no answer. A body that can't be read, or is longer, is an error within the answer.
    pub async fn send(&mut self, request: Request<Bytes>, most: usize) -> Result<Response<Result<Bytes, String>>, hyper::Error> {
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request.map(Full::new)).await?.into_parts();
        Ok(Response::from_parts(head, read(body, most).await))
    }
}

async fn read(body: impl Body<Data = Bytes, Error = hyper::Error>, most: usize) -> Result<Bytes, String> {
    Limited::new(body, most).collect().await.map(http_body_util::Collected::to_bytes).map_err(|e| e.to_string())
}
