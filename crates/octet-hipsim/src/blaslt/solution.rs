//! The solutions: their indices, and what each asks for.

use super::{BlasResult, Problem, Sizes, Status};

/// A way to compute a product.
#[derive(Debug, PartialEq)]
pub(crate) struct Solution {
    pub(crate) index: i32,
    pub(crate) workspace_bytes: usize,
    /// Sizes must be multiples of these.
    m_multiple: usize,
    k_multiple: usize,
    /// How often it computes the product: a slow one repeats it.
    pub(crate) repeats: usize,
}

/// All solutions, in the order in which the heuristic prefers them. The first is not the fastest, and one is general.
const SOLUTIONS: [Solution; 5] = [
    Solution { index: 2107, workspace_bytes: 0, m_multiple: 16, k_multiple: 16, repeats: 2 },
    Solution { index: 1530, workspace_bytes: 0, m_multiple: 1, k_multiple: 1, repeats: 3 },
    Solution { index: 4711, workspace_bytes: 32 << 20, m_multiple: 32, k_multiple: 32, repeats: 1 },
    Solution { index: 902, workspace_bytes: 0, m_multiple: 64, k_multiple: 64, repeats: 1 },
    Solution { index: 3300, workspace_bytes: 256 << 20, m_multiple: 1, k_multiple: 1, repeats: 1 },
];

impl Solution {
    fn fits(&self, sizes: Sizes) -> bool {
        sizes.m.is_multiple_of(self.m_multiple) && sizes.k.is_multiple_of(self.k_multiple)
    }
}

/// Solutions of a problem that fit the workspace.
pub(crate) fn solutions(problem: &Problem, workspace_bytes: usize) -> BlasResult<Vec<&'static Solution>> {
    let sizes = problem.sizes()?;
    let fits = |solution: &&Solution| solution.workspace_bytes <= workspace_bytes && solution.fits(sizes);
    Ok(SOLUTIONS.iter().filter(fits).collect())
}

/// The solution with an index, if it computes the problem in so much workspace.
pub(crate) fn check(problem: &Problem, index: i32, workspace_bytes: usize) -> BlasResult<&'static Solution> {
    let found = SOLUTIONS.iter().find(|solution| solution.index == index).ok_or(Status::InvalidValue)?;
    if !found.fits(problem.sizes()?) {
        return Err(Status::NotSupported);
    }
    if found.workspace_bytes > workspace_bytes { Err(Status::InvalidValue) } else { Ok(found) }
}
