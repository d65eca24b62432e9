//! The operations of a decoder, each in a file of its own.

pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod embed;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod rotary;
pub(crate) mod rows;
pub(crate) mod storage;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::threads::Pool;

/// Elements below which one worker is done before the others have woken.
const WORTH_A_FORK: usize = 16 * 1024;

/// Elements that a worker takes at a time.
const CHUNK: usize = 8 * 1024;

/// Calls `work(row)` for each row, on all workers if there is enough to do; `row_elements` says how much a row is.
pub(crate) fn for_rows(pool: &Pool, rows: usize, row_elements: usize, work: &(dyn Fn(usize) + Sync)) {
    if rows <= 1 || rows * row_elements < WORTH_A_FORK {
        return (0..rows).for_each(work);
    }
    let rows_at_once = (CHUNK / row_elements.max(1)).clamp(1, rows.div_ceil(pool.workers()));
    let next = AtomicUsize::new(0);
    pool.run(&|_| {
        loop {
            let start = next.fetch_add(rows_at_once, Relaxed);
            if start >= rows {
                break;
            }
            (start..(start + rows_at_once).min(rows)).for_each(work);
        }
    });
}
