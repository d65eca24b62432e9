//! The way from hidden states to logits on the host: gather, norm, head, visit.

use std::sync::Mutex;

use octet_backend::{Backend, Batch, DataType, Head, LinearUse, Norm, RmsNorm, ScaleShape, TensorRole};
use octet_reference::ReferenceBackend;

use crate::Claims;
use crate::compare::{Found, sum_error};
use crate::device::{filled, read, undefined};
use crate::host_weight::{HostLinear, HostWeight};
use crate::random::Random;

const HIDDEN: usize = 80;
const VOCABULARY: usize = 323;

struct Case {
    hidden: Vec<f32>,
    norm: Vec<f32>,
    head: HostLinear,
    output_rows: Vec<u32>,
    scale: f32,
    cap: Option<f32>,
}

/// What one backend made of a case: gathered rows, their norms, logits as visited, logits as read after the visit.
struct Outcome {
    gathered: Vec<f32>,
    norms: Vec<f32>,
    visited: Vec<(usize, Vec<f32>)>,
    changed: Vec<f32>,
}

impl Case {
    /// Runs the rows `selection` of the output rows.
    fn run<B: Backend>(&self, backend: &mut B, selection: std::ops::Range<usize>) -> Outcome {
        let rows = selection.len();
        let hidden = filled(backend, TensorRole::Residual, HIDDEN, &self.hidden);
        let mut gathered = undefined(backend, TensorRole::Residual, rows, HIDDEN);
        let mut norms = undefined(backend, TensorRole::Activation, rows, HIDDEN);
        let mut logits = undefined(backend, TensorRole::Logits, rows, VOCABULARY);
        let weight = backend.load_vector(&self.norm).expect("a vector");
        let head = self.head.load(backend);
        let mut batch = Batch::default();
        let tokens = vec![0; self.hidden.len() / HIDDEN];
        batch.push_sequence(&tokens, 0, &[1, 2, 3]);
        batch.output_rows.extend(&self.output_rows);
        backend.begin_step(&batch).expect("a batch that the workspace holds");
        backend.gather_rows(selection, &hidden, &mut gathered).expect("rows to gather");
        let gathered_rows = read(backend, &gathered, rows);
        let operands =
            RmsNorm { input: &gathered, norm: Norm { weight: &weight, epsilon: 1e-5 }, output: &mut norms };
        let head = Head { weight: &head, scale: self.scale, cap: self.cap };
        backend.logits(rows, operands, head, &mut logits).expect("logits");
        let visited = Mutex::new(Vec::new());
        let visit = |row: usize, logits: &mut [f32]| {
            visited.lock().expect("no visitor panics").push((row, logits.to_vec()));
            logits[row] = 1e9;
        };
        backend.map_logits(&mut logits, rows, &visit).expect("a visit");
        let mut visited = visited.into_inner().expect("no visitor panics");
        visited.sort_by_key(|&(row, _)| row);
        let norms = read(backend, &norms, rows);
        Outcome { gathered: gathered_rows, norms, visited, changed: read(backend, &logits, rows) }
    }
}

/// `gather_rows`, `logits` and `map_logits` against the reference; logits also with a factor and a bound.
///
/// # Panics
/// Where they disagree.
pub fn logits<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(9);
    let mut kinds = vec![(DataType::BF16, ScaleShape::None), (DataType::F32, ScaleShape::None)];
    kinds.extend(claims.float8_weights.iter().map(|&format| (DataType::F8(format), ScaleShape::Channel)));
    let kinds = kinds.into_iter().map(|kind| (kind, 1.0, None));
    let finished = [(0.125, None), (1.0, Some(2.0)), (3.0, Some(30.0))];
    let finished = finished.map(|(scale, cap)| ((DataType::BF16, ScaleShape::None), scale, cap));
    for (kind, scale, cap) in kinds.chain(finished) {
        let head = HostWeight::random(&mut random, kind, VOCABULARY, HIDDEN);
        let case = Case {
            hidden: random.bells(40 * HIDDEN),
            norm: random.bells(HIDDEN),
            head: HostLinear::of(head, LinearUse::EmbedAndMultiply),
            output_rows: vec![0, 3, 4, 5, 11, 17, 18, 20, 25, 39],
            scale,
            cap,
        };
        let mut whole: Option<Outcome> = None;
        for selection in [0..10, 0..1, 3..8, 9..10] {
            let outcome = case.run(backend, selection.clone());
            check(claims, &case, &outcome, selection.clone());
            match &whole {
                None => whole = Some(outcome),
                Some(whole) if claims.batch_invariant => {
                    for ((_, logits), source) in outcome.visited.iter().zip(selection) {
                        let found =
                            Found { what: "logits of fewer rows", columns: VOCABULARY, values: logits };
                        found.is_to_the_bit(&whole.visited[source].1);
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn check(claims: &Claims, case: &Case, outcome: &Outcome, selection: std::ops::Range<usize>) {
    let rows = selection.len();
    let expected = case.run(&mut ReferenceBackend::new(), selection);
    Found { what: "gathered rows", columns: HIDDEN, values: &outcome.gathered }
        .is_exactly(&expected.gathered);
    let found = Found { what: "final norms", columns: HIDDEN, values: &outcome.norms };
    found.is_near(&expected.norms, |index| sum_error(HIDDEN / 2) * f64::from(expected.norms[index].abs()));
    let rows_visited: Vec<usize> = outcome.visited.iter().map(|&(row, _)| row).collect();
    assert_eq!(rows_visited, (0..rows).collect::<Vec<usize>>(), "each row is visited once");
    // The norm's error and, where the device multiplies fewer bits, its rounding, times the sum of absolute products.
    // That is bounded by the product of Euclidean norms, and a row of weights has one of about 1, with FP8 scales up
    // to 2.25: 4 bounds it.
    let rounding = if claims.activation_type == DataType::F32 { 0.0 } else { 1.0 / 256.0 };
    for ((row, logits), (_, reference)) in outcome.visited.iter().zip(&expected.visited) {
        let squares: f32 = expected.norms[row * HIDDEN..(row + 1) * HIDDEN].iter().map(|x| x * x).sum();
        // The bound is nowhere steeper than 1.
        let magnitude = 4.0 * f64::from(squares.sqrt() * case.scale) + f64::from(case.cap.unwrap_or(0.0));
        let found = Found { what: "logits", columns: VOCABULARY, values: logits };
        found.is_near(reference, |_| (sum_error(2 * HIDDEN) + rounding) * magnitude);
        let mut changed = logits.clone();
        changed[*row] = 1e9;
        let values = &outcome.changed[row * VOCABULARY..(row + 1) * VOCABULARY];
        Found { what: "logits that a visitor changed", columns: VOCABULARY, values }.is_exactly(&changed);
    }
}
