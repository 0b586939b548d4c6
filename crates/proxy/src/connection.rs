//! What every step of a connection works with, until it is admitted.

use sidegate_control::{Latest, Snapshot, Tls};
use sidegate_core::{ConnectionRecord, Reason};

use crate::failure::Failure;
use crate::registry::ConnectionHandle;
use crate::shared::Shared;

/// A connection on its way from accept to admission. It is gone before the relay, so that an open connection keeps no old snapshot.
pub(crate) struct Connection<'a> {
    /// What all connections share.
    pub(crate) shared: &'a Shared,
    /// Its entry in the registry.
    pub(crate) handle: &'a ConnectionHandle,
    /// What it leaves behind.
    pub(crate) record: &'a mut ConnectionRecord,
    /// It is verified and authorized by this snapshot alone.
    pub(crate) snapshot: &'a Snapshot,
    /// The count of renewals that the snapshot has at least.
    pub(crate) renewal: u64,
}

impl<'a> Connection<'a> {
    /// A connection that `latest` decides about.
    pub(crate) fn new(shared: &'a Shared, handle: &'a ConnectionHandle, record: &'a mut ConnectionRecord, latest: &'a Latest) -> Self {
        record.generation = latest.snapshot.generation;
        Self { shared, handle, record, snapshot: &latest.snapshot, renewal: latest.renewal }
    }

    /// The same connection, which `latest` decides about from here on.
    pub(crate) fn renewed<'b>(&'b mut self, latest: &'b Latest) -> Connection<'b> {
        Connection::new(self.shared, self.handle, self.record, latest)
    }

    /// The snapshot's TLS configurations. The record is told of our side of the connection.
    pub(crate) fn tls(&mut self) -> Result<&'a Tls, Failure> {
        let tls = self.snapshot.valid_tls().ok_or(Failure::new(Reason::NotReady))?;
        self.record.local_id = Some(tls.local_id.clone());
        self.record.local_certificate = Some(tls.local_certificate.clone());
        Ok(tls)
    }
}
