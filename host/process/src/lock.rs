//! How the process locks a mutex: nobody panics while holding a lock, so nobody handles a poisoned one. Where code
//! that is not under our control runs under a lock, use the mutex's own methods.

use std::sync::{Mutex, MutexGuard};

/// Why a lock is never poisoned, for `expect`.
pub const NOT_POISONED: &str = "no code panics while it holds the lock";

/// Locking without a result to handle.
pub trait LockExt {
    /// What the lock protects.
    type Value: ?Sized;

    /// Waits for the lock. Panics if a thread has panicked while it held the lock.
    fn locked(&self) -> MutexGuard<'_, Self::Value>;
}

impl<T: ?Sized> LockExt for Mutex<T> {
    type Value = T;

    #[inline]
    #[track_caller]
    fn locked(&self) -> MutexGuard<'_, T> {
        self.lock().expect(NOT_POISONED)
    }
}
