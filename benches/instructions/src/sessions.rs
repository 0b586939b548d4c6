//! Both ends of a session over loopback, on one thread.

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::rc::Rc;

use sidegate_tls::{ClientChoice, Filled, ServerChoice, ServerName, Session, TlsContext, accept, connect};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::material;

/// Who can shake hands with each other.
pub struct Pair {
    runtime: Rc<Runtime>,
    listener: TcpListener,
    context: TlsContext,
    server: ServerChoice,
}

/// Two ends that have.
pub struct Ends {
    runtime: Rc<Runtime>,
    near: TcpStream,
    far: TcpStream,
    /// The client's session.
    pub client: Session,
    /// The server's.
    pub server: Session,
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// With an identity for both.
    #[must_use]
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let context = TlsContext::new(&material()).unwrap();
        let server = context.server(&[]);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        Self { runtime: Rc::new(runtime), listener, context, server }
    }

    /// A client without a ticket.
    #[must_use]
    pub fn new_client(&self) -> ClientChoice {
        self.context.client(&[], false)
    }

    /// Shakes hands.
    #[must_use]
    pub fn shake(&self, client: &ClientChoice) -> Ends {
        let address = self.listener.local_addr().unwrap();
        self.runtime.block_on(async {
            let (near, far) = tokio::join!(TcpStream::connect(address), self.listener.accept());
            let (near, (far, _)) = (near.unwrap(), far.unwrap());
            let connecting = async {
                let mut session = connect(&near, client, ServerName::IpAddress(address.ip().into())).await.unwrap();
                poll_fn(|cx| session.poll_flush(&near, cx)).await.unwrap();
                session
            };
            let (client, server) = tokio::join!(connecting, accept(&far, &[], &self.server));
            Ends { runtime: self.runtime.clone(), client, server: server.unwrap(), near, far }
        })
    }
}

impl Ends {
    /// Sends `length` bytes from the client to the server, which takes them.
    pub fn transfer(&mut self, length: usize) {
        let Self { runtime, near, far, client, server } = self;
        runtime.block_on(async {
            let (mut left, mut missing) = (length, length);
            while missing > 0 {
                while left > 0 && !client.is_full() {
                    let sealed = client.seal_from(None, |rooms| Ok(Some(claim(rooms, left)))).unwrap();
                    left -= sealed.unwrap();
                    poll_fn(|cx| client.poll_flush(near, cx)).await.unwrap();
                }
                assert_eq!(poll_fn(|cx| server.poll_fill(far, cx)).await.unwrap(), Filled::Data);
                let (_, chunks) = server.plaintext().unwrap();
                let came: usize = chunks.iter().map(|chunk| (chunk.end - chunk.start) as usize).sum();
                server.take(came);
                missing -= came;
            }
        });
    }

    /// Ends both in order, after which the client has its ticket.
    pub fn close(mut self) {
        let Self { runtime, near, far, client, server } = &mut self;
        runtime.block_on(async {
            poll_fn(|cx| server.poll_shutdown(far, cx)).await.unwrap();
            assert_eq!(poll_fn(|cx| client.poll_fill(near, cx)).await.unwrap(), Filled::End);
        });
    }
}

/// Fills rooms with what lies in them already.
fn claim(rooms: &[IoSliceMut<'_>], length: usize) -> usize {
    rooms.iter().map(|room| room.len()).sum::<usize>().min(length)
}
