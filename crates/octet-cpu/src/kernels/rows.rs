//! Rows of a matrix for several workers at once.

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

/// A matrix, `[rows, columns]`, whose rows are written by different workers.
#[derive(Clone, Copy)]
pub(crate) struct SharedRows<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow, and `row` asks its caller to keep the rows apart.
unsafe impl Sync for SharedRows<'_> {}
// SAFETY: as above.
unsafe impl Send for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    /// Borrows whole rows of `columns`.
    pub(crate) fn new(values: &'a mut [f32], columns: usize) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        Self { start: values.as_mut_ptr(), rows, columns, matrix: PhantomData }
    }

    /// One row.
    ///
    /// # Safety
    /// No two slices of a row are alive at once.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) unsafe fn row(&self, row: usize) -> &'a mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row lies inside the borrowed slice; the caller keeps others away from it.
        unsafe { slice::from_raw_parts_mut(self.start.add(row * self.columns), self.columns) }
    }

    /// Some columns of one row.
    ///
    /// # Safety
    /// No two slices that share an element are alive at once.
    ///
    /// # Panics
    /// If there is no such row or column.
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.columns);
        let start = row * self.columns + columns.start;
        // SAFETY: the columns lie inside the row, and the row inside the borrowed slice; the caller keeps others away.
        unsafe { slice::from_raw_parts_mut(self.start.add(start), columns.len()) }
    }
}
