//! Norms and rotation of heads, near and far from the start.

use octet_backend::{Backend, DataType, KvScale};
use octet_reference::ReferenceBackend;

use crate::Claims;
use crate::compare::{ELEMENTARY, Found, sum_error};
use crate::scenario::{Heads, Layout, Scenario, Step};

/// Head dimensions and how many of them turn.
const DIMENSIONS: [(usize, usize); 8] =
    [(16, 16), (64, 64), (64, 32), (80, 80), (80, 20), (96, 96), (128, 128), (256, 256)];

/// `rotary_and_cache` against the reference: queries and keys in place, values untouched.
///
/// # Panics
/// Where they disagree.
pub fn rotary<B: Backend>(_claims: &Claims, backend: &mut B) {
    for (index, (head_dim, rotary_dim)) in DIMENSIONS.into_iter().enumerate() {
        let layout = Layout {
            kv_heads: 1 + index % 2,
            group: 1 + index % 3,
            head_dim,
            block_size: 16,
            cap: None,
            window: Some(4),
            data_type: DataType::F32,
            scale: KvScale::ONE,
        };
        let [plain, normed] = [false, true].map(|it| Heads::turned(head_dim, rotary_dim, it));
        for mut heads in [plain.clone(), normed, plain.normed_across(&layout)] {
            heads.rope.magnitude = if index % 2 == 0 { 1.0 } else { 1.207 };
            check(backend, layout, heads);
        }
    }
}

fn check<B: Backend>(backend: &mut B, layout: Layout, heads: Heads) {
    // Sequences with a long past that nothing ever looks at: the window hides it.
    let starts = [0, 3, 1_000, 32_767, 131_070];
    let pieces: Vec<_> = starts.iter().enumerate().map(|(sequence, &from)| (sequence, from, 2)).collect();
    // All blocks of a sequence are one and the same block.
    let tables = (0..starts.len()).map(|sequence| vec![1 + sequence as u32; 131_072 / 16]).collect();
    let steps = vec![Step::of(&pieces)];
    let scenario = Scenario { layout, heads, blocks: 1 + starts.len(), tables, steps };
    let expected = &rotated(&scenario, &mut ReferenceBackend::new());
    let found = &rotated(&scenario, backend);
    let (width, head_dim) = (layout.width(), layout.head_dim);
    let pairs = scenario.heads.rope.inverse_frequencies.len();
    let turned = (layout.query_heads() + layout.kv_heads) * head_dim;
    let normed = scenario.heads.norms.as_ref().map_or(0, |(query, _)| query.len());
    let norm_error = if normed > 0 { sum_error(normed / 2) } else { 0.0 };
    let what = format!("heads of {head_dim}, {} turned, norms of {normed}", 2 * pairs);
    Found { what: &what, columns: width, values: found }.is_near(expected, |index| {
        let (column, dimension) = (index % width, index % width % head_dim);
        if column >= turned {
            return 0.0;
        }
        if dimension >= 2 * pairs {
            return norm_error * f64::from(expected[index].abs());
        }
        // The rotation keeps the length of a pair, and each of its two products is at most that.
        let partner = if dimension < pairs { index + pairs } else { index - pairs };
        let length = f64::from(expected[index]).hypot(f64::from(expected[partner]));
        2.0 * length * (ELEMENTARY + norm_error)
    });
}

/// Queries, keys and values after the rotation. Attention over pasts that were never written gives NaN, and is not
/// looked at.
fn rotated<B: Backend>(scenario: &Scenario, backend: &mut B) -> Vec<f32> {
    scenario.run(backend).swap_remove(0).qkv
}
