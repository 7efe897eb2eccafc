//! How many authenticated calls may be in progress at a time, in total and for each principal. Does not know
//! what they do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{ErrorCode, Refusal};

/// When a call that was refused may be tried again, in milliseconds.
const RETRY_AFTER_MS: u64 = 1000;

pub(super) struct CallLimiter {
    max_calls: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: usize,
    by_principal: HashMap<Arc<str>, usize>,
}

/// A call in progress, until this is dropped.
pub(super) struct CallPermit {
    principal: Arc<str>,
    limiter: Arc<CallLimiter>,
}

impl CallLimiter {
    pub(super) fn new(max_calls: usize) -> Arc<Self> {
        Arc::new(Self { max_calls, state: Mutex::default() })
    }

    /// Begins a call. A principal may have at most as many calls as are still free, so a principal without
    /// calls can always make one.
    pub(super) fn begin(self: &Arc<Self>, principal: &Arc<str>) -> Result<CallPermit, Refusal> {
        let mut state = self.state();
        let own = state.by_principal.get(principal).copied().unwrap_or(0);
        if own >= self.max_calls - state.calls {
            let message =
                format!("principal '{principal}' has {own} calls in progress; wait until one of them ends");
            return Err(Refusal::retry(ErrorCode::Overloaded, message, RETRY_AFTER_MS));
        }
        state.calls += 1;
        state.by_principal.insert(principal.clone(), own + 1);
        Ok(CallPermit { principal: principal.clone(), limiter: self.clone() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        state.calls -= 1;
        let own = state.by_principal.get_mut(&self.principal).expect("its calls are counted");
        *own -= 1;
        if *own == 0 {
            state.by_principal.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a key with nothing but the scope `publish` locked operators out with incomplete bodies.
    #[test]
    fn no_principal_can_take_all_calls() {
        let limiter = CallLimiter::new(12);
        let names = ["a", "b", "c", "d"].map(Arc::from);
        let mut calls: Vec<CallPermit> = vec![];
        for (name, max) in names.iter().zip([6, 3, 2, 1]) {
            for _ in 0..max {
                calls.push(limiter.begin(name).ok().unwrap_or_else(|| panic!("{name} of {}", calls.len())));
            }
            let Err(refusal) = limiter.begin(name) else { panic!("{name} has more than {max}") };
            assert_eq!(refusal.code, ErrorCode::Overloaded);
        }
        calls.clear();
        assert!(limiter.begin(&names[3]).is_ok() && limiter.state().by_principal.is_empty());
    }
}
