//! The paged KV cache as the seam describes it.

use crate::DataType;

/// Dequantization scales of one layer's keys and values: `key ≈ stored * key`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvScale {
    /// Scale of the keys.
    pub key: f32,
    /// Scale of the values.
    pub value: f32,
}

impl KvScale {
    /// No scaling: what 16-bit caches use, and FP8 caches without calibration.
    pub const ONE: Self = Self { key: 1.0, value: 1.0 };
}

/// Shape of the paged KV cache of all layers. The arrangement inside a block is the backend's own.
#[derive(Clone, Debug, PartialEq)]
pub struct KvCacheSpec {
    /// Decoder layers.
    pub layers: usize,
    /// Key and value heads on this rank.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Tokens in a block, a multiple of 16.
    pub block_size: usize,
    /// Blocks, block 0 (the null block) included.
    pub blocks: usize,
    /// Element type stored.
    pub data_type: DataType,
    /// Scales, one entry a layer.
    pub scales: Vec<KvScale>,
}

impl KvCacheSpec {
    /// Bytes of one block over all layers: `2 * layers * block_size * kv_heads * head_dim * element`.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        2 * self.layers * self.block_size * self.kv_heads * self.head_dim * self.data_type.bytes()
    }
}
