//! Foreign programs as peers: Envoy, OpenSSL, go-spiffe, SPIRE.

mod envoy;
mod go;
mod openssl;
mod spire;
