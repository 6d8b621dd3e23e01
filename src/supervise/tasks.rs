//! Tasks that wait for one subject, and what they have the supervisor do. When the subject is gone,
//! dropping this ends the tasks and forgets what they have sent: nothing arrives late.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::supervise::{Supervisor, wait, wait_on};

/// What the supervisor does when something has happened.
pub type Act = Box<dyn FnOnce(&mut Supervisor<'_>) + Send>;

pub struct Tasks {
    set: JoinSet<()>,
    sender: Sender,
    received: UnboundedReceiver<Act>,
}

/// Where a task sends what the supervisor does.
#[derive(Clone)]
pub struct Sender(UnboundedSender<Act>);

impl Sender {
    pub fn send(&self, act: impl FnOnce(&mut Supervisor<'_>) + Send + 'static) {
        let _ = self.0.send(Box::new(act));
    }
}

impl Default for Tasks {
    fn default() -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        Self { set: JoinSet::new(), sender: Sender(sender), received }
    }
}

impl Tasks {
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Waits for what a task sends next.
    pub async fn next(&mut self) -> Option<Act> {
        self.received.recv().await
    }

    /// Ends the tasks. What they have sent stays.
    pub fn stop(&mut self) {
        self.set.abort_all();
    }

    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        // A set remembers those that have ended until it is asked.
        while self.set.try_join_next().is_some() {}
        self.set.spawn(task);
    }

    /// Has the supervisor `act` on what `task` returns.
    pub fn when<T: Send + 'static>(
        &mut self,
        task: impl Future<Output = T> + Send + 'static,
        act: impl FnOnce(&mut Supervisor<'_>, T) + Send + 'static,
    ) {
        let sender = self.sender();
        self.spawn(async move {
            let result = task.await;
            sender.send(|supervisor| act(supervisor, result));
        });
    }

    /// Has the supervisor `act` after `time`.
    pub fn later(
        &mut self,
        time: Duration,
        act: impl FnOnce(&mut Supervisor<'_>) + Send + 'static,
    ) {
        self.when(wait::sleep(time), |supervisor, ()| act(supervisor));
    }

    /// Has the supervisor `act` on what `read` returns whenever `fd` is readable, until that fails.
    pub fn read<T: Send + 'static>(
        &mut self,
        fd: OwnedFd,
        mut read: impl FnMut(&OwnedFd) -> io::Result<T> + Send + 'static,
        act: fn(&mut Supervisor<'_>, T),
    ) -> io::Result<()> {
        let fd = wait_on(fd)?;
        let sender = self.sender();
        self.spawn(async move {
            while let Ok(mut guard) = fd.readable().await {
                match guard.try_io(|fd| read(fd.get_ref())) {
                    Ok(Ok(found)) => sender.send(move |supervisor| act(supervisor, found)),
                    Ok(Err(_)) => return,
                    // There is nothing for now.
                    Err(_) => {}
                }
            }
        });
        Ok(())
    }
}
