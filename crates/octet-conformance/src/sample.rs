//! Sampling on the device, against the host's and against the formulas in `f64`.
//!
//! Device and host draw at the same fraction of the same weights, so that they choose the same token unless the fraction,
//! or top-p, falls within rounding of a boundary between two. How near that may be is told by the oracle: a token that
//! is not the host's must be what the oracle chooses when fraction or top-p are moved by [`NEAR`].

use octet_backend::{Backend, SampleRow, TensorRole};
use octet_sample::{Sampler, SamplingParams, SequenceState};

use crate::device::filled;
use crate::random::Random;

/// Sums of weights in `f32` and in fixed point differ by less than this share.
const NEAR: f64 = 2e-6;

/// One row with what is asked of it.
struct Case {
    name: &'static str,
    logits: Vec<f32>,
    params: SamplingParams,
}

impl Case {
    fn new(name: &'static str, logits: &[f32], temperature: f32, (top_k, top_p): (u32, f32)) -> Self {
        let params = SamplingParams { temperature, top_k, top_p, ..SamplingParams::default() };
        Self { name, logits: logits.to_vec(), params }
    }

    fn row(&self, row: usize) -> SampleRow {
        let SamplingParams { temperature, top_k, top_p, .. } = self.params;
        let fraction = SequenceState::new(&self.params, &[]).next_fraction();
        SampleRow { row, temperature, top_k, top_p, fraction }
    }

    fn on_host(&self) -> Option<u32> {
        let mut sequence = SequenceState::new(&self.params, &[]);
        let mut logits = self.logits.clone();
        let sampled = Sampler::new(logits.len()).sample(&mut sequence, &mut logits);
        sampled.ok().map(|sampled| sampled.token)
    }

    /// The formulas, with the fraction and top-p moved.
    fn oracle(&self, fraction: f64, top_p: f64) -> u32 {
        let SamplingParams { temperature, top_k, .. } = self.params;
        let mut order: Vec<usize> = (0..self.logits.len()).collect();
        // Stable: of equal ones the lowest first.
        order.sort_by(|&a, &b| self.logits[b].total_cmp(&self.logits[a]));
        let largest = f64::from(self.logits[order[0]]);
        let weight =
            |token: usize| ((f64::from(self.logits[token]) - largest) / f64::from(temperature)).exp();
        if top_k > 0 && (top_k as usize) < order.len() {
            let worst = self.logits[order[top_k as usize - 1]];
            order.retain(|&token| self.logits[token] >= worst);
        }
        let target = top_p * order.iter().map(|&token| weight(token)).sum::<f64>();
        if top_p < 1.0 {
            let mut reached = 0.0;
            let kept = order.iter().position(|&token| {
                reached += weight(token);
                reached >= target
            });
            order.truncate(kept.map_or(order.len(), |last| last + 1));
        }
        order.sort_unstable();
        let target = fraction * order.iter().map(|&token| weight(token)).sum::<f64>();
        let mut running = 0.0;
        let drawn = order.iter().find(|&&token| {
            running += weight(token);
            running > target
        });
        *drawn.unwrap_or(&order[order.len() - 1]) as u32
    }

    /// Whether rounding may have led to this token instead of the host's.
    fn is_near_tie(&self, found: u32) -> bool {
        let SampleRow { fraction, top_p, .. } = self.row(0);
        let moved = [-NEAR, 0.0, NEAR];
        moved.iter().any(|by| {
            moved.iter().any(|of| {
                let top_p = if top_p < 1.0 { f64::from(top_p) * (1.0 + of) } else { 1.0 };
                self.oracle((fraction + by).clamp(0.0, 1.0), top_p) == found
            })
        })
    }
}

/// Logits like a model's: a bell with a few tokens far above it.
fn peaked(random: &mut Random, columns: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = random.bells(columns).iter().map(|value| value * 2.0 - 3.0).collect();
    for rank in 0..columns.min(12) {
        let at = random.bits() as usize % columns;
        logits[at] = 9.0 - rank as f32 * 0.4;
    }
    logits
}

/// What is asked for of rows of any size: temperature, top-k, top-p.
const ASKED: [(f32, u32, f32); 11] = [
    (0.0, 0, 1.0),
    (1.0, 0, 1.0),
    (0.7, 20, 1.0),
    (0.8, 20, 0.95),
    (1.0, 0, 0.9),
    // Wide: top-p reaches far beyond the best few hundred, top-k does too.
    (4.0, 0, 0.97),
    (4.0, 700, 0.99),
    (3.0, 700, 1.0),
    (1.0, 1, 0.5),
    (0.05, 3, 1.0),
    (1.0, 0, 1e-4),
];

fn cases(columns: usize, asked: &[(f32, u32, f32)]) -> Vec<Case> {
    let mut random = Random::new(31 + columns as u64);
    let peaked = |(at, &(temperature, top_k, top_p)): (usize, &(f32, u32, f32))| {
        let mut case = Case::new("peaked", &peaked(&mut random, columns), temperature, (top_k, top_p));
        case.params.seed = (at * 7 + columns) as u64;
        case
    };
    asked.iter().enumerate().map(peaked).collect()
}

/// Rows that are unusual: ties, masks, and such as cannot be sampled.
fn special_cases(columns: usize) -> Vec<Case> {
    let (equal, mut masked) = (vec![0.25; columns], vec![f32::NEG_INFINITY; columns]);
    let mut two = vec![-1.0; columns];
    (two[columns / 2], two[columns - 1]) = (3.0, 3.0);
    (masked[1], masked[columns - 2]) = (-0.0, 0.0);
    let mut damaged = two.clone();
    let mut with = |value| {
        damaged[columns / 3] = value;
        Case::new("damaged", &damaged, 0.0, (0, 1.0))
    };
    let damages = [f32::NAN, -f32::NAN, f32::INFINITY].map(&mut with);
    let mut cases = vec![
        Case::new("equal, greedy", &equal, 0.0, (0, 1.0)),
        Case::new("equal", &equal, 1.0, (0, 1.0)),
        Case::new("equal, top-k keeps ties", &equal, 1.0, (4, 1.0)),
        Case::new("equal, top-p", &equal, 1.0, (0, 0.3)),
        Case::new("equal, top-k and top-p", &equal, 1.0, (5, 0.6)),
        Case::new("two of equal, greedy", &two, 0.0, (0, 1.0)),
        Case::new("two of equal, top-p", &two, 0.1, (0, 0.5)),
        Case::new("masked, greedy", &masked, 0.0, (0, 1.0)),
        Case::new("masked", &masked, 1.0, (0, 1.0)),
        Case::new("masked, top-k", &masked, 1.0, (10, 0.9)),
        Case::new("nothing left", &vec![f32::NEG_INFINITY; columns], 1.0, (3, 0.9)),
    ];
    cases.extend(damages);
    cases.iter_mut().enumerate().for_each(|(at, case)| case.params.seed = 90 + at as u64);
    cases
}

/// `sample` against the host: parameters of all kinds, vocabularies of odd sizes, ties, rows in another order, rows that
/// cannot be sampled.
///
/// # Panics
/// Where the device chooses another token, or does not sample.
pub fn sample<B: Backend>(backend: &mut B) {
    for columns in [1, 7, 100, 1500, 20_003] {
        sample_vocabulary(backend, columns);
    }
    let large: [(f32, u32, f32); 4] = [(0.0, 0, 1.0), (0.8, 20, 0.95), (1.0, 0, 1.0), (6.0, 0, 0.9)];
    check(backend, &cases(150_001, &large));
}

/// The same for a vocabulary of one size.
///
/// # Panics
/// Where the device chooses another token, or does not sample.
pub fn sample_vocabulary<B: Backend>(backend: &mut B, columns: usize) {
    check(backend, &cases(columns, &ASKED));
    if (100..10_000).contains(&columns) {
        check(backend, &special_cases(columns));
        ends(backend, columns);
    }
}

/// The smallest and the largest fraction: the first and the last token that is not masked.
fn ends<B: Backend>(backend: &mut B, columns: usize) {
    let mut values = vec![f32::NEG_INFINITY; columns];
    let (first, last) = (columns / 3, columns - 2);
    (values[first], values[last]) = (-0.0, 0.5);
    let mut logits = filled(backend, TensorRole::Logits, columns, &values);
    for top_k in [0, 10] {
        let row = |fraction| SampleRow { row: 0, temperature: 1.0, top_k, top_p: 1.0, fraction };
        let rows = [row(0.0), row(1.0 - f64::EPSILON / 2.0)];
        let mut tokens = [0; 2];
        backend.sample(&mut logits, &rows, &mut tokens).expect("sampling");
        assert_eq!(tokens, [first, last].map(|token| token as u32), "ends of {columns}, top-k {top_k}");
    }
}

fn check<B: Backend>(backend: &mut B, cases: &[Case]) {
    let columns = cases[0].logits.len();
    let values: Vec<f32> = cases.iter().flat_map(|case| &case.logits).copied().collect();
    let mut logits = filled(backend, TensorRole::Logits, columns, &values);
    // From the last row to the first, and not the second.
    let chosen = (0..cases.len()).rev().filter(|&row| row != 1);
    let rows: Vec<SampleRow> = chosen.map(|row| cases[row].row(row)).collect();
    let mut tokens = vec![12_345; rows.len()];
    let samples = backend.sample(&mut logits, &rows, &mut tokens).expect("sampling");
    assert!(samples, "the device leaves sampling to the host");
    let mut ties = 0;
    for (row, &token) in rows.iter().zip(&tokens) {
        let case = &cases[row.row];
        let found = (token != SampleRow::NOT_SAMPLED).then_some(token);
        let expected = case.on_host();
        if found == expected {
            continue;
        }
        let is_near = found.is_some_and(|token| row.temperature > 0.0 && case.is_near_tie(token));
        let Case { name, params, .. } = case;
        assert!(
            is_near && expected.is_some(),
            "{name} of {columns}, temperature {}, top-k {}, top-p {}: {found:?} instead of {expected:?}",
            params.temperature,
            params.top_k,
            params.top_p
        );
        ties += 1;
    }
    assert!(ties <= 1, "{ties} of {} rows of {columns} differ from the host by rounding", rows.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_agrees_with_the_formulas() {
        for columns in [1, 7, 100, 1500] {
            for case in cases(columns, &ASKED) {
                let token = case.on_host().expect("a row that can be sampled");
                if case.params.temperature > 0.0 {
                    assert!(case.is_near_tie(token), "{columns}: {:?} {token}", case.params);
                }
            }
        }
        let fails = special_cases(100).iter().filter(|case| case.on_host().is_none()).count();
        assert_eq!(fails, 4);
    }
}
