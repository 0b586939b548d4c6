//! A Workload API that hands out what these tests trust: the oracle takes its bundles from nothing else.

use std::path::Path;
use std::pin::Pin;

use sidegate_devkit::authority::workload_api::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use sidegate_devkit::authority::workload_api::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt, once, pending};
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};

use crate::pki::{Spec, World, key};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one SVID of prod.example and the bundles of `world` until the runtime ends.
pub(crate) fn serve(world: &World, socket: &Path) {
    let key = key();
    let svid = X509svid {
        spiffe_id: "spiffe://prod.example/oracle".to_owned(),
        x509_svid: Spec::leaf("spiffe://prod.example/oracle").signed_by(&world.ours, &key).to_vec(),
        x509_svid_key: key.serialize_der(),
        bundle: world.ours.der.to_vec(),
        hint: String::new(),
    };
    let others = world.bundles.iter().filter(|(name, bundle)| name.as_str() != "prod.example" && !bundle.authorities.is_empty());
    let federated_bundles =
        others.map(|(name, bundle)| (name.id_string(), bundle.authorities.iter().flat_map(|a| a.der.to_vec()).collect())).collect();
    let state = X509svidResponse { svids: vec![svid], federated_bundles, ..Default::default() };
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(Server::builder().add_service(SpiffeWorkloadApiServer::new(Api(state))).serve_with_incoming(incoming));
}

struct Api(X509svidResponse);

#[async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(&self, _: Request<X509svidRequest>) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(Response::new(Box::pin(once(Ok(self.0.clone())).chain(pending()))))
    }

    async fn fetch_x509_bundles(&self, _: Request<X509BundlesRequest>) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("the oracle needs none"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("the oracle needs none"))
    }

    async fn fetch_jwt_bundles(&self, _: Request<JwtBundlesRequest>) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("the oracle needs none"))
    }

    async fn validate_jwtsvid(&self, _: Request<ValidateJwtsvidRequest>) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("the oracle needs none"))
    }
}
