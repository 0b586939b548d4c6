//! The Workload API as tonic calls it.

use tonic::service::Interceptor;
use tonic::{Request, Response, Status};

use super::answer;
use super::attest::Caller;
use super::feed::{self, Shared, Updates};
use super::workload_api::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::workload_api::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, SECURITY_HEADER, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};

/// Serves the Workload API out of the shared state.
pub(crate) struct Service {
    pub(crate) state: Shared,
}

/// Refuses what does not say that it means to call (SPIFFE_Workload_Endpoint.md, section 3).
#[derive(Clone, Copy)]
pub(crate) struct RequireHeader;

impl Interceptor for RequireHeader {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match request.metadata().get(SECURITY_HEADER) {
            Some(value) if value == "true" => Ok(request),
            _ => Err(Status::invalid_argument("the metadata \"workload.spiffe.io: true\" is missing; send it")),
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;

    async fn fetch_x509svid(&self, request: Request<X509svidRequest>) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let stream = feed::stream(&self.state, caller(&request)?, answer::x509_svids).await?;
        Ok(Response::new(stream))
    }

    async fn fetch_x509_bundles(&self, request: Request<X509BundlesRequest>) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let stream = feed::stream(&self.state, caller(&request)?, answer::x509_bundles).await?;
        Ok(Response::new(stream))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        feed::once(&self.state, |state| answer::jwt_svids(state, &caller, &request)).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(&self, request: Request<JwtBundlesRequest>) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let stream = feed::stream(&self.state, caller(&request)?, answer::jwt_bundles).await?;
        Ok(Response::new(stream))
    }

    async fn validate_jwtsvid(&self, request: Request<ValidateJwtsvidRequest>) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        feed::once(&self.state, |state| answer::validate(state, &caller, &request)).await.map(Response::new)
    }
}

/// Who called, as attested when it connected.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::permission_denied("the caller could not be attested"))
}
