//! Which engines are loaded, if their memory is limited.
//!
//! A model that is requested but not loaded queues. For the first in the queue, idle models make room, then
//! those that were requested least recently: they begin no further answers, and are unloaded when those that
//! run have ended. Nobody overtakes in the queue, so models that are all requested take turns, and a model that
//! answers is never thrown out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory for engines, shared by their threads.
#[derive(Default)]
pub(crate) struct Room {
    /// Maximum sum of bytes.
    budget: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: Vec<Model>,
    queue: VecDeque<usize>,
    /// Number of requests so far.
    clock: u64,
}

struct Model {
    bytes: u64,
    /// Lets its thread look at the room again.
    wake: Box<dyn Fn() + Send>,
    is_loaded: bool,
    is_busy: bool,
    /// Number of its last request.
    used: u64,
}

impl Room {
    pub(crate) fn new(budget: Option<u64>) -> Self {
        Self { budget, state: Mutex::default() }
    }

    /// Adds a model that takes so many bytes while it is loaded, but is not. `None` if it never fits.
    pub(crate) fn add(
        self: &Arc<Self>,
        bytes: u64,
        wake: impl Fn() + Send + 'static,
    ) -> Option<Place> {
        if self.budget.is_some_and(|budget| bytes > budget) {
            return None;
        }
        let mut state = self.state();
        let wake = Box::new(wake);
        state.models.push(Model { bytes, wake, is_loaded: false, is_busy: false, used: 0 });
        Some(Place { room: Arc::clone(self), index: state.models.len() - 1 })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // every update leaves it whole
    }

    /// Bytes by which loading one more model would exceed the budget.
    fn excess(&self, state: &State, index: usize) -> u64 {
        let loaded = state.models.iter().filter(|m| m.is_loaded).map(|m| m.bytes);
        let needed = loaded.fold(state.models[index].bytes, u64::saturating_add);
        self.budget.map_or(0, |budget| needed.saturating_sub(budget))
    }
}

impl State {
    fn wake_all(&self) {
        self.models.iter().for_each(|m| (m.wake)());
    }
}

/// The place of a model's thread. Dropping it gives it up for ever.
pub(crate) struct Place {
    room: Arc<Room>,
    index: usize,
}

impl Place {
    /// Whether the engine may be loaded now, or is; otherwise, it queues.
    pub(crate) fn enter(&self) -> bool {
        let mut state = self.room.state();
        if state.models[self.index].is_loaded {
            return true;
        }
        let is_next = state.queue.front().is_none_or(|first| *first == self.index);
        let fits = is_next && self.room.excess(&state, self.index) == 0;
        if fits {
            state.queue.retain(|queued| *queued != self.index);
            state.models[self.index].is_loaded = true;
        } else if !state.queue.contains(&self.index) {
            state.queue.push_back(self.index);
        } else {
            return false;
        }
        state.wake_all();
        fits
    }

    /// Whether there is room for the engine without anybody leaving, which it then takes.
    pub(crate) fn enter_free(&self) -> bool {
        let mut state = self.room.state();
        let fits = state.queue.is_empty() && self.room.excess(&state, self.index) == 0;
        state.models[self.index].is_loaded |= fits;
        fits
    }

    /// Whether this engine, which is loaded, makes room for another one once its answers have ended.
    pub(crate) fn must_leave(&self) -> bool {
        let state = self.room.state();
        let Some(&first) = state.queue.front() else { return false };
        let mut excess = self.room.excess(&state, first);
        let loaded = state.models.iter().enumerate().filter(|(_, m)| m.is_loaded);
        let mut loaded: Vec<_> = loaded.map(|(i, m)| (m.is_busy, m.used, i)).collect();
        loaded.sort_unstable();
        for (_, _, index) in loaded {
            if excess == 0 {
                return false;
            }
            if index == self.index {
                return true;
            }
            excess = excess.saturating_sub(state.models[index].bytes);
        }
        false
    }

    /// The engine is not loaded any more, or could not be.
    pub(crate) fn leave(&self) {
        let mut state = self.room.state();
        let model = &mut state.models[self.index];
        (model.is_loaded, model.is_busy) = (false, false);
        state.queue.retain(|queued| *queued != self.index);
        state.wake_all();
    }

    /// Nobody waits for the engine any more.
    pub(crate) fn withdraw(&self) {
        let mut state = self.room.state();
        if state.queue.contains(&self.index) {
            state.queue.retain(|queued| *queued != self.index);
            state.wake_all();
        }
    }

    /// The engine has begun an answer.
    pub(crate) fn begin(&self) {
        let mut state = self.room.state();
        state.clock += 1;
        let now = state.clock;
        let model = &mut state.models[self.index];
        (model.is_busy, model.used) = (true, now);
    }

    /// The engine has no answers to generate.
    pub(crate) fn rest(&self) {
        let mut state = self.room.state();
        let was_busy = std::mem::take(&mut state.models[self.index].is_busy);
        if was_busy && !state.queue.is_empty() {
            state.wake_all();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models of these sizes.
    fn room(budget: u64, bytes: &[u64]) -> Vec<Place> {
        let room = Arc::new(Room::new(Some(budget)));
        bytes.iter().map(|&bytes| room.add(bytes, || {}).unwrap()).collect()
    }

    fn leaving(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|&i| places[i].must_leave()).collect()
    }

    #[test]
    fn two_models_with_room_for_one_take_turns() {
        let places = room(10, &[6, 7]);
        let [a, b] = &places[..] else { panic!() };
        assert!(a.enter());
        a.begin();
        assert_eq!(leaving(&places), [0; 0]);
        for _ in 0..3 {
            assert!(!b.enter() && !b.enter());
            assert_eq!(leaving(&places), [0]);
            a.leave();
            assert!(!a.enter() || b.enter(), "no overtaking");
            assert!(b.enter());
            b.begin();
            assert!(!a.enter());
            assert_eq!(leaving(&places), [1]);
            b.leave();
            assert!(a.enter());
        }
    }

    #[test]
    fn idle_models_make_room_first_then_the_least_recently_requested() {
        let places = room(10, &[3, 3, 3, 5, 2]);
        for place in &places[..3] {
            assert!(place.enter());
            place.begin();
        }
        places[0].begin();
        assert!(!places[3].enter());
        assert_eq!(leaving(&places), [1, 2], "one would not be enough");
        places[0].rest();
        assert_eq!(leaving(&places), [0, 1]);
        assert!(!places[4].enter(), "it would fit, but is not the next");
        places[0].leave();
        assert_eq!(leaving(&places), [1]);
        places[3].withdraw();
        assert_eq!(leaving(&places), [0; 0], "nobody waits for so much any more");
        assert!(places[4].enter());
    }

    #[test]
    fn a_model_that_has_failed_holds_nobody_up() {
        let mut places = room(10, &[6, 6, 6]);
        assert!(places[0].enter());
        assert!(!places[1].enter() && !places[2].enter());
        drop(places.remove(1)); // the next one
        assert_eq!(leaving(&places), [0]);
        drop(places.remove(0)); // the loaded one
        assert!(places[0].enter());
        assert!(Arc::clone(&places[0].room).add(11, || {}).is_none(), "more than there is");
    }
}
