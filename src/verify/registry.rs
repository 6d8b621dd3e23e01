//! Serves [`crate::oci::serve`] over HTTP, on a loopback port of the network namespace that it is
//! started in.
//!
//! Daemons try TLS first. hyper answers what is no HTTP with a plain 400, and both kinds of daemon
//! take that as the word to go on without: a connection that is merely closed is no such word for
//! containerd.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::oci::serve::Registry;

/// The most that the body of a request may hold, in bytes.
const BODY_MAX: usize = 64 << 20;

/// A registry for all its connections.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Registry>>);

impl Shared {
    /// Does something with the registry.
    pub fn with<T>(&self, act: impl FnOnce(&mut Registry) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves connections for as long as it is polled.
pub async fn serve(listener: TcpListener, shared: Shared) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let shared = shared.clone();
        let answer = service_fn(move |request| answer(request, shared.clone()));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        let mut refused = Response::default();
        *refused.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(refused);
    };
    let mut answer = shared.with(|registry| registry.answer(&head, &body.to_bytes()));
    let version = HeaderValue::from_static("registry/2.0");
    answer.headers_mut().insert("Docker-Distribution-Api-Version", version);
    Ok(answer.map(|body| Full::new(body.into())))
}
