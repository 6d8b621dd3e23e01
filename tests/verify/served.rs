//! Our registry, served over TCP by the suite itself: no daemon, and no namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use dockerd_rootless::oci::build::{self, Entry, Image, Layer};
use dockerd_rootless::oci::manifest::{Kind, Stored};
use dockerd_rootless::verify::registry::{self, Shared};
use test_support::wait;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A registry that runs until the value goes.
pub struct Served {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub fn start() -> Self {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
                tell.send(listener.local_addr().expect("an address")).expect("the test waits");
                tokio::select! {
                    never = registry::serve(listener, Shared::default()) => match never {},
                    _ = stopped => {}
                }
            });
        });
        let address = told.recv().expect("an address");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Sends `request` as it stands, and returns the whole answer.
    pub fn send(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("a timeout");
        stream.write_all(request.as_ref()).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers and closes");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "the registry");
    }
}

/// An image with two layers.
pub fn image(kind: Kind) -> Image {
    let entry = |path| Entry { path, mode: 0o644, bytes: b"content\n" };
    let layers = ["first", "second"].map(|path| Layer::pack(&[entry(path)], 1).expect("a layer"));
    let config = build::config(&["/first"], &Default::default(), &layers);
    Image::new(kind, config, layers.to_vec())
}

/// A list of this image, of the kind that goes with it.
pub fn list_of(image: &Image) -> Stored {
    Stored::list(vec![image.manifest.descriptor().on("linux", build::architecture())])
}
