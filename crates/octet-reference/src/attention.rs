//! Rotary positions, the write into the cache, and attention over it.

use octet_backend::{AttentionSpec, BackendError, Batch, RopeSpec};

use crate::kv_cache::{ReferenceKvCache, Side};

/// `values / sqrt(mean(values²) + epsilon) * weight`, all `[columns]`.
pub(crate) fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    let reciprocal = 1.0 / (squares / values.len() as f64 + f64::from(epsilon)).sqrt();
    for ((output, &value), &weight) in output.iter_mut().zip(values).zip(weight) {
        *output = (f64::from(value) * reciprocal * f64::from(weight)) as f32;
    }
}

/// `cap * tanh(value / cap)` where there is a cap.
pub(crate) fn capped(value: f64, cap: Option<f32>) -> f64 {
    cap.map_or(value, |cap| f64::from(cap) * (value / f64::from(cap)).tanh())
}

/// Turns one head, `[head_dim]`, to its position.
///
/// The angle is an `f32` product, as transformers and vLLM have it: at position 100,000 its rounding is a part of what
/// a model was trained with. All else is in `f64`.
pub(crate) fn rotate(rope: &RopeSpec, position: u32, head: &mut [f32]) {
    let pairs = rope.inverse_frequencies.len();
    for (pair, &frequency) in rope.inverse_frequencies.iter().enumerate() {
        let angle = position as f32 * frequency;
        let (sine, cosine) = f64::from(angle).sin_cos();
        let magnitude = f64::from(rope.magnitude);
        let (first, second) = (f64::from(head[pair]), f64::from(head[pair + pairs]));
        head[pair] = ((first * cosine - second * sine) * magnitude) as f32;
        head[pair + pairs] = ((second * cosine + first * sine) * magnitude) as f32;
    }
}

/// Operands of [`rotary_and_cache`] that concern heads.
pub(crate) struct HeadOptions<'a> {
    pub(crate) query_norm: Option<&'a [f32]>,
    pub(crate) key_norm: Option<&'a [f32]>,
    pub(crate) epsilon: f32,
    pub(crate) rope: &'a RopeSpec,
}

/// Normalises and rotates the queries and keys of each row of `qkv [rows, (query_heads + 2 * kv_heads) * head_dim]`,
/// and stores keys and values.
pub(crate) fn rotary_and_cache(
    batch: &Batch,
    attention: AttentionSpec,
    options: &HeadOptions<'_>,
    qkv: &mut [f32],
    cache: &mut ReferenceKvCache,
) -> Result<(), BackendError> {
    let (head_dim, kv_heads) = (cache.spec.head_dim, cache.spec.kv_heads);
    let width = (attention.query_heads + 2 * kv_heads) * head_dim;
    let query_columns = attention.query_heads * head_dim;
    for sequence in &batch.sequences {
        let table = batch.block_table(sequence);
        for row in sequence.first_row..sequence.first_row + sequence.rows {
            let (queries_and_keys, values) = qkv[row * width..(row + 1) * width]
                .split_at_mut((attention.query_heads + kv_heads) * head_dim);
            let (queries, keys) = queries_and_keys.split_at_mut(query_columns);
            for (side, weight) in [(queries, options.query_norm), (keys, options.key_norm)] {
                let Some(weight) = weight else { continue };
                for values in side.chunks_exact_mut(weight.len()) {
                    let mut normalised = vec![0.0; weight.len()];
                    rms_norm(values, weight, options.epsilon, &mut normalised);
                    values.copy_from_slice(&normalised);
                }
            }
            for head in queries_and_keys.chunks_exact_mut(head_dim) {
                rotate(options.rope, batch.positions[row], head);
            }
            let keys = &queries_and_keys[query_columns..];
            let position = batch.positions[row] as usize;
            cache.write((attention.layer, Side::Key), table, position, keys)?;
            cache.write((attention.layer, Side::Value), table, position, values)?;
        }
    }
    Ok(())
}

/// Attention of every row: `output [rows, query_heads * head_dim]`.
pub(crate) fn attend(
    batch: &Batch,
    attention: AttentionSpec,
    qkv: &[f32],
    cache: &ReferenceKvCache,
    output: &mut [f32],
) -> Result<(), BackendError> {
    let (head_dim, kv_heads) = (cache.spec.head_dim, cache.spec.kv_heads);
    let width = (attention.query_heads + 2 * kv_heads) * head_dim;
    let group = attention.query_heads / kv_heads;
    for sequence in &batch.sequences {
        let table = batch.block_table(sequence);
        for row in sequence.first_row..sequence.first_row + sequence.rows {
            for head in 0..attention.query_heads {
                let query = &qkv[row * width + head * head_dim..][..head_dim];
                let start = (row * attention.query_heads + head) * head_dim;
                let output = &mut output[start..start + head_dim];
                let source = Source { cache, table, kv_head: head / group };
                attend_head(attention, source, batch.positions[row] as usize, query, output)?;
            }
        }
    }
    Ok(())
}

/// The cached keys and values that one query head reads.
#[derive(Clone, Copy)]
struct Source<'a> {
    cache: &'a ReferenceKvCache,
    table: &'a [u32],
    kv_head: usize,
}

/// `softmax(scale * query · keysᵀ) · values` over the positions that the token at `position` sees.
fn attend_head(
    attention: AttentionSpec,
    source: Source<'_>,
    position: usize,
    query: &[f32],
    output: &mut [f32],
) -> Result<(), BackendError> {
    let read =
        |side, position| source.cache.read((attention.layer, side), source.table, position, source.kv_head);
    let first = attention.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
    let mut scores = Vec::with_capacity(position + 1 - first);
    for position in first..=position {
        let (key, scale) = read(Side::Key, position)?;
        let dot: f64 = query.iter().zip(key).map(|(&query, &key)| f64::from(query) * f64::from(key)).sum();
        scores.push(capped(dot * scale * f64::from(attention.scale), attention.score_cap));
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let mut sums = vec![0.0f64; query.len()];
    for (score, position) in scores.iter().zip(first..) {
        let weight = (score - largest).exp() / total;
        let (value, scale) = read(Side::Value, position)?;
        for (sum, &value) in sums.iter_mut().zip(value) {
            *sum += weight * (f64::from(value) * scale);
        }
    }
    for (output, sum) in output.iter_mut().zip(sums) {
        *output = sum as f32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use octet_backend::{DataType, KvCacheSpec, KvScale};

    use super::*;

    /// A rotation by no angle at any position.
    fn no_rope() -> RopeSpec {
        RopeSpec { inverse_frequencies: vec![0.0], magnitude: 1.0 }
    }

    fn cache(kv_heads: usize) -> ReferenceKvCache {
        ReferenceKvCache::allocate(&KvCacheSpec {
            layers: 1,
            kv_heads,
            head_dim: 2,
            block_size: 16,
            blocks: 3,
            data_type: DataType::F32,
            scales: vec![KvScale::ONE],
        })
        .unwrap()
    }

    fn spec(query_heads: usize, sliding_window: Option<usize>) -> AttentionSpec {
        AttentionSpec { layer: 0, query_heads, scale: 1.0, score_cap: None, sliding_window }
    }

    #[test]
    fn norm_divides_by_the_root_of_the_mean_square() {
        let mut output = [0.0; 2];
        // The mean of 9 and 16 is 12.5; epsilon 3.5 makes it 16.
        rms_norm(&[3.0, -4.0], &[2.0, 0.5], 3.5, &mut output);
        assert_eq!(output, [1.5, -0.5]);
    }

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let quarter = std::f32::consts::FRAC_PI_2;
        let rope = RopeSpec { inverse_frequencies: vec![quarter, 0.0], magnitude: 2.0 };
        // Dimension 4 lies beyond the rotated four.
        let mut head = [1.0, 10.0, 3.0, 20.0, 7.0];
        rotate(&rope, 1, &mut head);
        for (found, expected) in head.iter().zip([-6.0, 20.0, 2.0, 40.0, 7.0]) {
            assert!((found - expected).abs() < 1e-6, "{head:?}");
        }
        let mut still = [1.0, 10.0, 3.0, 20.0];
        rotate(&rope, 0, &mut still);
        assert_eq!(still, [2.0, 20.0, 6.0, 40.0]);
    }

    /// Writes rows `[query | key | value]` of one head of two elements and attends.
    fn run(
        batch: &Batch,
        window: Option<usize>,
        rows: &[[f32; 6]],
        cache: &mut ReferenceKvCache,
    ) -> Vec<f32> {
        let mut qkv: Vec<f32> = rows.iter().flatten().copied().collect();
        let rope = no_rope();
        let options = HeadOptions { query_norm: None, key_norm: None, epsilon: 0.0, rope: &rope };
        rotary_and_cache(batch, spec(1, window), &options, &mut qkv, cache).unwrap();
        let mut output = vec![0.0; rows.len() * 2];
        attend(batch, spec(1, window), &qkv, cache, &mut output).unwrap();
        output
    }

    #[test]
    fn softmax_weighs_the_past_and_hides_the_future() {
        let mut batch = Batch::default();
        batch.push_sequence(&[0, 0, 0], 0, &[2]);
        let ln = |x: f32| x.ln();
        // Scores of the third row: ln 1, ln 3, ln 4: weights 1/8, 3/8, 4/8.
        let rows = [
            [1.0, 0.0, 0.0, 9.0, 8.0, 0.0],
            [0.0, 0.0, ln(3.0), 9.0, 16.0, 8.0],
            [1.0, 0.0, ln(4.0), 9.0, 24.0, 16.0],
        ];
        let output = run(&batch, None, &rows, &mut cache(1));
        for (found, expected) in output.iter().zip([8.0, 0.0, 12.0, 4.0, 19.0, 11.0]) {
            assert!((found - expected).abs() < 1e-5, "{output:?}");
        }
        // A window of two hides the first token from the third: 3/7 and 4/7.
        let output = run(&batch, Some(2), &rows, &mut cache(1));
        assert!((output[4] - (16.0 * 3.0 + 24.0 * 4.0) / 7.0).abs() < 1e-5, "{output:?}");
        let output = run(&batch, Some(1), &rows, &mut cache(1));
        assert_eq!(output, [8.0, 0.0, 16.0, 8.0, 24.0, 16.0]);
    }

    #[test]
    fn a_later_step_continues_from_the_cache() {
        let row = |value: f32| [0.0, 0.0, 1.0, 1.0, value, -value];
        let mut cache = cache(1);
        let mut first = Batch::default();
        let tokens = [0; 16];
        first.push_sequence(&tokens, 0, &[2]);
        run(&first, None, &[row(1.0); 16], &mut cache);
        let mut second = Batch::default();
        second.push_sequence(&[0], 0, &[0]);
        second.push_sequence(&[0], 16, &[2, 1]);
        // Seventeen equal weights: sixteen ones and one eighteen.
        assert_eq!(run(&second, None, &[row(5.0), row(18.0)], &mut cache), [5.0, -5.0, 2.0, -2.0]);
    }

    #[test]
    fn query_heads_share_the_key_head_of_their_group() {
        let mut batch = Batch::default();
        batch.push_sequence(&[0], 0, &[1]);
        let mut cache = cache(2);
        let mut qkv = vec![0.0; 16];
        qkv[12..].copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        let rope = no_rope();
        let options = HeadOptions { query_norm: None, key_norm: None, epsilon: 0.0, rope: &rope };
        rotary_and_cache(&batch, spec(4, None), &options, &mut qkv, &mut cache).unwrap();
        let mut output = vec![0.0; 8];
        attend(&batch, spec(4, None), &qkv, &cache, &mut output).unwrap();
        assert_eq!(output, [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
    }

    #[test]
    fn norms_touch_queries_and_keys_alone() {
        let mut batch = Batch::default();
        batch.push_sequence(&[0], 0, &[1]);
        let mut qkv = vec![3.0, 4.0, 6.0, 8.0, 3.0, 4.0];
        let rope = no_rope();
        let scaled = 12.5f32.sqrt();
        let options = HeadOptions {
            query_norm: Some(&[scaled, scaled]),
            key_norm: Some(&[scaled, -scaled]),
            epsilon: 0.0,
            rope: &rope,
        };
        rotary_and_cache(&batch, spec(1, None), &options, &mut qkv, &mut cache(1)).unwrap();
        assert_eq!(qkv, [3.0, 4.0, 3.0, -4.0, 3.0, 4.0]);
    }

    #[test]
    fn a_long_weight_normalises_all_heads_of_a_side_together() {
        let mut batch = Batch::default();
        batch.push_sequence(&[0], 0, &[1]);
        // Two query heads with a mean square of 4, a key head with one of 12.5.
        let mut qkv = vec![2.0, 2.0, 0.0, 8f32.sqrt(), 3.0, 4.0, 3.0, 4.0];
        let rope = no_rope();
        let scaled = 12.5f32.sqrt();
        let options = HeadOptions {
            query_norm: Some(&[2.0, 4.0, 1.0, 0.0]),
            key_norm: Some(&[scaled, scaled]),
            epsilon: 0.0,
            rope: &rope,
        };
        rotary_and_cache(&batch, spec(2, None), &options, &mut qkv, &mut cache(1)).unwrap();
        assert_eq!(qkv, [2.0, 4.0, 0.0, 0.0, 3.0, 4.0, 3.0, 4.0]);
    }
}
