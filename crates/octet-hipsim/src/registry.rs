//! Handles: numbers that C code holds, and what they stand for. A stale handle is an error and not a wild pointer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::status::{HipError, HipResult};

/// The objects of one kind.
pub(crate) struct Registry<T> {
    objects: LazyLock<Mutex<HashMap<usize, Arc<T>>>>,
}

/// Handles of all kinds differ, so that one of a wrong kind is seen. They look like no address.
static NEXT: AtomicUsize = AtomicUsize::new(0x1_0001);

impl<T> Registry<T> {
    pub(crate) const fn new() -> Self {
        Self { objects: LazyLock::new(Mutex::default) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<T>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an object a handle.
    pub(crate) fn insert(&self, object: Arc<T>) -> usize {
        let handle = NEXT.fetch_add(2, Ordering::Relaxed);
        self.lock().insert(handle, object);
        handle
    }

    /// The object of a handle.
    pub(crate) fn get(&self, handle: usize) -> HipResult<Arc<T>> {
        self.lock().get(&handle).cloned().ok_or(HipError::InvalidHandle)
    }

    /// The object of a handle that is no handle any more.
    pub(crate) fn remove(&self, handle: usize) -> HipResult<Arc<T>> {
        self.lock().remove(&handle).ok_or(HipError::InvalidHandle)
    }

    /// All objects.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.lock().values().cloned().collect()
    }
}
