//! Hooks for tests, whose outcome must not depend on the speed of the machine. No stability promise.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use nanoinfer_engine::Constraint;

use crate::runner::Command;
use crate::server::Handle;

/// Lets the engines run only this many more steps; `None` = without limit.
pub fn limit_steps(handle: &Handle, steps: Option<u64>) {
    handle.command(|| Command::Steps(steps));
}

/// Makes all further answers these tokens, whatever the model says; `None` = what it says.
pub fn script(handle: &Handle, answer: Option<&[u32]>) {
    let scripted = answer.map(|answer| Scripted { answer: answer.to_vec(), at: 0 });
    let boxed = || scripted.as_ref().map(Constraint::boxed);
    handle.command(|| Command::Constrain(boxed()));
}

/// Makes the engines hang at the next token of further answers, until the result is dropped.
pub fn hang(handle: &Handle) -> Sender<()> {
    let (release, released) = channel();
    let hanging = Hanging(Arc::new(Mutex::new(released)));
    handle.command(|| Command::Constrain(Some(hanging.boxed())));
    release
}

/// Makes the engines panic at the next token of further answers.
pub fn panic(handle: &Handle) {
    handle.command(|| Command::Constrain(Some(Box::new(Panicking))));
}

/// Waits before it allows some tokens.
#[derive(Clone, Debug)]
struct Hanging(Arc<Mutex<Receiver<()>>>);

impl Constraint for Hanging {
    fn allow(&mut self, allowed: &mut [u32]) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).recv();
        allowed[0] = u32::MAX;
    }

    fn push(&mut self, _id: u32) {}

    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Fails, as code with a bug would.
#[derive(Clone, Debug)]
struct Panicking;

impl Constraint for Panicking {
    fn allow(&mut self, _allowed: &mut [u32]) {
        panic!("a test lets the engine fail");
    }

    fn push(&mut self, _id: u32) {}

    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Allows only the tokens of an answer.
#[derive(Clone, Debug)]
struct Scripted {
    answer: Vec<u32>,
    at: usize,
}

impl Constraint for Scripted {
    fn allow(&mut self, allowed: &mut [u32]) {
        if let Some(id) = self.answer.get(self.at) {
            allowed[*id as usize / 32] |= 1 << (id % 32);
        }
    }

    fn push(&mut self, _id: u32) {
        self.at += 1;
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Unloads the engines as soon as they have nothing to do.
pub fn unload(handle: &Handle) {
    handle.command(|| Command::Unload);
}

/// Ends the engines as if they had failed.
pub fn fail_engines(handle: &Handle) {
    handle.command(|| Command::Fail);
}
