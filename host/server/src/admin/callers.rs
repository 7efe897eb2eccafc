//! The calls of those who show a key: so many of all principals are under way at a time, and none can have all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_protocol::{ErrorCode, Refusal};

pub(super) struct Callers {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: usize,
    by_principal: HashMap<Arc<str>, usize>,
}

/// A call that is under way until this is dropped.
pub(super) struct Call {
    principal: Arc<str>,
    callers: Arc<Callers>,
}

impl Callers {
    /// Of so many calls.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A principal has no more of them than are left: so there is always one for who has none.
    pub(super) fn begin(self: &Arc<Self>, principal: &Arc<str>) -> Result<Call, Refusal> {
        let mut state = self.state();
        let own = state.by_principal.get(principal).copied().unwrap_or(0);
        if own >= self.most - state.all {
            let message =
                format!("principal '{principal}' has {own} calls under way; wait for one of them to end");
            return Err(Refusal::retry(ErrorCode::Overloaded, message, 1000));
        }
        state.all += 1;
        state.by_principal.insert(principal.clone(), own + 1);
        Ok(Call { principal: principal.clone(), callers: self.clone() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the callers")
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.callers.state();
        state.all -= 1;
        let own = state.by_principal.get_mut(&self.principal).expect("it was counted");
        *own -= 1;
        if *own == 0 {
            state.by_principal.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that may only publish kept operators out with half bodies.
    #[test]
    fn no_principal_has_all_calls() {
        let callers = Callers::new(12);
        let names = ["a", "b", "c", "d"].map(Arc::from);
        let mut calls: Vec<Call> = vec![];
        for (name, most) in names.iter().zip([6, 3, 2, 1]) {
            for _ in 0..most {
                calls.push(callers.begin(name).ok().unwrap_or_else(|| panic!("{name} of {}", calls.len())));
            }
            let Err(refusal) = callers.begin(name) else { panic!("{name} has more than {most}") };
            assert_eq!(refusal.code, ErrorCode::Overloaded);
        }
        calls.clear();
        assert!(callers.begin(&names[3]).is_ok() && callers.state().by_principal.is_empty());
    }
}
