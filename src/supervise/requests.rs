//! Does what people ask for, one request at a time, and answers when it is done.

use crate::error::Error;
use crate::supervise::Supervisor;
use crate::supervise::control::{Request, Wish};
use crate::supervise::{Event, State, Why};

/// A request that is being done.
pub struct Begun {
    request: Request,
    /// How often dockerd had been replaced before, and everything restarted.
    before: (u32, u32),
}

impl Supervisor<'_> {
    /// Answers what is done, and begins what can be begun.
    pub(super) fn serve_requests(&mut self) {
        let counts = (self.machine.replaced, self.machine.restarts);
        let is_up = self.machine.state == State::Ready;
        if let Some(begun) = self.begun.take_if(|begun| is_up && begun.before != counts) {
            let done = match counts.1 == begun.before.1 {
                true if self.daemon.live_restore => {
                    "dockerd was replaced; containers were not touched"
                }
                true => "dockerd was restarted",
                false => "rootless Docker was restarted",
            };
            let _ = begun.request.answer.send(Ok(done.to_owned()));
        }
        // In a pause nobody has to wait for its end.
        let is_free = matches!(self.machine.state, State::Ready | State::Pausing | State::Waiting);
        if self.begun.is_some() || !is_free || !self.raised.is_empty() {
            return;
        }
        let Some(request) = self.requests.pop_front() else {
            return;
        };
        match self.begin(&request.wish) {
            Ok(event) => {
                self.raise(event);
                self.begun = Some(Begun { request, before: counts });
            }
            Err(error) => {
                let said = error.render();
                let said: Vec<&str> = said.lines().collect();
                let said = said.join("; ");
                let said = said.strip_prefix("error: ").unwrap_or(&said);
                let _ = request.answer.send(Err(said.to_owned()));
            }
        }
    }

    /// What a wish means, unless it would end badly.
    fn begin(&mut self, wish: &Wish) -> Result<Event, Error> {
        match wish {
            Wish::Restart => {
                self.try_daemon()?;
                Ok(Event::Replace(Why::Asked))
            }
            Wish::RestartAll => Ok(Event::RestartAll),
            Wish::TakeOver(program) => Err(self.hand_over(program)),
        }
    }

    /// Tells all who wait that nothing comes of it any more.
    pub(super) fn disappoint(&mut self) {
        let begun = self.begun.take().map(|begun| begun.request);
        for request in self.requests.drain(..).chain(begun) {
            let _ = request.answer.send(Err("rootless Docker was stopped".to_owned()));
        }
    }
}
