//! The paged KV cache: storage rounding and block addressing.

use octet_backend::{BackendError, KvCacheSpec};

use crate::memory;
use crate::rounding::round_to;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Key,
    Value,
}

/// Keys and values of all layers, `[layers, 2, blocks, block_size, kv_heads, head_dim]`.
///
/// Elements are what the storage type keeps of `x / scale`; reading multiplies the scale back.
#[derive(Debug)]
pub struct ReferenceKvCache {
    pub(crate) spec: KvCacheSpec,
    stored: Vec<f32>,
}

impl ReferenceKvCache {
    pub(crate) fn allocate(spec: &KvCacheSpec) -> Result<Self, BackendError> {
        if spec.block_size == 0 || !spec.block_size.is_multiple_of(16) {
            return Err(BackendError::BlockSize { block_size: spec.block_size, multiple_of: 16 });
        }
        if spec.scales.len() != spec.layers {
            return Err(BackendError::Shape {
                found_rows: spec.scales.len(),
                found_columns: 2,
                expected_rows: spec.layers,
                expected_columns: 2,
            });
        }
        let extents = [spec.layers, 2, spec.blocks, spec.block_size, spec.kv_heads, spec.head_dim];
        let elements = extents.iter().try_fold(1, |product: usize, &extent| product.checked_mul(extent));
        Ok(Self { spec: spec.clone(), stored: memory::filled("KV cache", elements, f32::NAN)? })
    }

    /// Elements of one block in one layer, keys or values.
    fn block_elements(&self) -> usize {
        self.spec.block_size * self.spec.kv_heads * self.spec.head_dim
    }

    /// Where a block of a layer begins.
    fn block_start(&self, layer: usize, side: Side, block: u32) -> Result<usize, BackendError> {
        assert!(layer < self.spec.layers, "layer {layer} of a cache of {} layers", self.spec.layers);
        let block = block as usize;
        if block >= self.spec.blocks {
            let limit = self.spec.blocks.saturating_sub(1);
            return Err(BackendError::Limit { what: "a block id", value: block, limit });
        }
        let plane = 2 * layer + usize::from(side == Side::Value);
        Ok((plane * self.spec.blocks + block) * self.block_elements())
    }

    /// Where the heads of the token at `position` of a sequence begin, `[kv_heads, head_dim]`.
    fn token_start(
        &self,
        (layer, side): (usize, Side),
        table: &[u32],
        position: usize,
    ) -> Result<usize, BackendError> {
        let block = table[position / self.spec.block_size];
        let slot = position % self.spec.block_size;
        Ok(self.block_start(layer, side, block)? + slot * self.spec.kv_heads * self.spec.head_dim)
    }

    fn scale(&self, layer: usize, side: Side) -> f32 {
        let scale = self.spec.scales[layer];
        if side == Side::Key { scale.key } else { scale.value }
    }

    /// Stores the heads of one token, `[kv_heads * head_dim]`: the rounding of `x / scale`.
    pub(crate) fn write(
        &mut self,
        plane: (usize, Side),
        table: &[u32],
        position: usize,
        heads: &[f32],
    ) -> Result<(), BackendError> {
        let start = self.token_start(plane, table, position)?;
        let scale = self.scale(plane.0, plane.1);
        for (stored, value) in self.stored[start..start + heads.len()].iter_mut().zip(heads) {
            *stored = round_to(self.spec.data_type, value / scale);
        }
        Ok(())
    }

    /// One head of one token, `[head_dim]`, without the scale, and the scale.
    pub(crate) fn read(
        &self,
        plane: (usize, Side),
        table: &[u32],
        position: usize,
        head: usize,
    ) -> Result<(&[f32], f64), BackendError> {
        let start = self.token_start(plane, table, position)? + head * self.spec.head_dim;
        let scale = f64::from(self.scale(plane.0, plane.1));
        Ok((&self.stored[start..start + self.spec.head_dim], scale))
    }
}

#[cfg(test)]
mod tests {
    use octet_backend::{DataType, KvScale};
    use octet_float8::Float8Format;

    use super::*;

    fn spec(data_type: DataType) -> KvCacheSpec {
        KvCacheSpec {
            layers: 2,
            kv_heads: 2,
            head_dim: 2,
            block_size: 16,
            blocks: 4,
            data_type,
            scales: vec![KvScale::ONE, KvScale { key: 0.5, value: 4.0 }],
        }
    }

    #[test]
    fn what_is_read_is_what_the_type_kept() {
        let mut cache = ReferenceKvCache::allocate(&spec(DataType::F8(Float8Format::E4M3))).unwrap();
        // Position 17 is slot 1 of the second block of the table.
        cache.write((1, Side::Key), &[1, 3], 17, &[1.0, 2.1, 300.0, -0.5]).unwrap();
        // Divided by 0.5: 2, 4.2 (between 4 and 4.5), 600 (above 448), -1.
        let first = cache.read((1, Side::Key), &[1, 3], 17, 0).unwrap();
        assert_eq!(first, (&[2.0, 4.0][..], 0.5));
        assert_eq!(cache.read((1, Side::Key), &[0, 3], 17, 1).unwrap().0, [448.0, -1.0]);
        // Neither another layer nor the values were touched.
        assert!(cache.read((0, Side::Key), &[1, 3], 17, 0).unwrap().0[0].is_nan());
        assert!(cache.read((1, Side::Value), &[1, 3], 17, 0).unwrap().0[0].is_nan());
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let odd = KvCacheSpec { block_size: 24, ..spec(DataType::F32) };
        assert_eq!(
            ReferenceKvCache::allocate(&odd).unwrap_err(),
            BackendError::BlockSize { block_size: 24, multiple_of: 16 }
        );
        let unscaled = KvCacheSpec { scales: vec![KvScale::ONE], ..spec(DataType::F32) };
        assert!(matches!(ReferenceKvCache::allocate(&unscaled), Err(BackendError::Shape { .. })));
        let huge = KvCacheSpec { blocks: usize::MAX / 64, ..spec(DataType::F32) };
        assert!(matches!(ReferenceKvCache::allocate(&huge), Err(BackendError::OutOfMemory { .. })));
    }
}
