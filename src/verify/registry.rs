//! Serves [`crate::oci::serve`] over HTTP, on a loopback port of the network namespace that it is
//! started in.
//!
//! Daemons try TLS first. hyper answers what is no HTTP with a plain 400, and both kinds of daemon
//! take that as the word to go on without: a connection that is merely closed is no such word for
//! containerd.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::oci::serve;
use crate::oci::serve::Registry;

/// The most that the body of a request may hold, in bytes.
const BODY_MAX: usize = 64 << 20;

/// A registry and what it was asked, such as `GET /v2/`, for all its connections.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<(Registry, Vec<String>)>>);

impl Shared {
    /// Does something with the registry and with what it was asked.
    pub fn with<T>(&self, act: impl FnOnce(&mut Registry, &mut Vec<String>) -> T) -> T {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (registry, asked) = &mut *inner;
        act(registry, asked)
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
    let is_head = head.method == Method::HEAD;
    let body = Limited::new(body, BODY_MAX).collect().await;
    let Ok(body) = body else {
        return Ok(build(413, &[], Vec::new()));
    };
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let request = serve::Request {
        method: head.method.to_string(),
        path: decoded(head.uri.path()),
        query: query(head.uri.query().unwrap_or_default()),
        headers: headers.collect(),
        body: body.to_bytes().to_vec(),
    };
    let answer = shared.with(|registry, asked| {
        asked.push(format!("{} {}", request.method, request.path));
        registry.answer(&request)
    });
    let mut headers = answer.headers;
    headers.push(("Content-Length", answer.body.len().to_string()));
    let body = if is_head { Vec::new() } else { answer.body };
    Ok(build(answer.status, &headers, body))
}

fn build(status: u16, headers: &[(&'static str, String)], body: Vec<u8>) -> Response<Full<Bytes>> {
    let api = ("Docker-Distribution-Api-Version", "registry/2.0".to_owned());
    let mut response = Response::builder().status(status).header(api.0, api.1);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(body.into())).unwrap_or_default()
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// Reads `%3A` and its like.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex =
            tail.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
