//! Rotary positions, the paged cache, and attention over it.

use octet_backend::{
    AttentionSpec, BackendError, DataType, KvCacheSpec, KvScale, RotaryAndCache, check_operand,
};

use crate::GpuError;
use crate::architecture::Architecture;
use crate::backend::batch::DeviceBatch;
use crate::backend::linear::element_type;
use crate::backend::parameters::{self, size};
use crate::backend::tensor::GpuTensor;
use crate::backend::{GpuBackend, GpuVector};
use crate::driver::{DeviceBuffer, Function, Module, Stream};
use crate::kernels::ElementType;

/// Query heads of one KV head that a tile of 16 queries takes.
const TILE_QUERIES: usize = 16;

/// The largest head that has kernels.
const LARGEST_HEAD: usize = 256;

/// A rotary embedding on the device.
pub struct GpuRope {
    pub(super) frequencies: DeviceBuffer,
    pub(super) pairs: usize,
    pub(super) magnitude: f32,
}

/// The kernels of one head dimension and cache type.
pub(super) struct CacheKernels {
    rotary: Function,
    side_norm: Function,
    attention: AttentionKernels,
}

/// Those of `attention.cu`.
pub(super) struct AttentionKernels {
    attention: Function,
    combine: Function,
}

impl AttentionKernels {
    pub(super) fn of(module: &Module) -> Result<Self, GpuError> {
        Ok(Self { attention: module.function("attention")?, combine: module.function("attention_combine")? })
    }
}

impl CacheKernels {
    pub(super) fn of(rotary: &Module, attention: AttentionKernels) -> Result<Self, GpuError> {
        let side_norm = rotary.function("side_norm")?;
        Ok(Self { rotary: rotary.function("rotary_and_cache")?, side_norm, attention })
    }
}

/// The paged cache of all layers: keys `[layer][block][kv head][token][head_dim]`, values
/// `[layer][block][kv head][head_dim][token]`.
pub struct GpuKvCache {
    pub(super) spec: KvCacheSpec,
    pub(super) keys: DeviceBuffer,
    pub(super) values: DeviceBuffer,
    element_type: ElementType,
    /// Of each layer, as the device's format needs them.
    scales: Vec<KvScale>,
    /// The largest magnitude that is stored.
    limit: f32,
    kernels: CacheKernels,
}

/// What a cache becomes on the device, decided before anything is allocated.
pub(super) struct CachePlan {
    pub(super) element_type: ElementType,
    /// Bytes of keys, and of values.
    bytes: usize,
    factor: f32,
    limit: f32,
}

impl CachePlan {
    pub(super) fn new(architecture: Architecture, spec: &KvCacheSpec) -> Result<Self, BackendError> {
        let KvCacheSpec { layers, kv_heads, head_dim, block_size, blocks, .. } = *spec;
        if block_size == 0 || block_size % 16 != 0 {
            return Err(BackendError::BlockSize { block_size, multiple_of: 16 });
        }
        let what = "the head dimension's remainder by 16";
        if head_dim % 16 != 0 {
            return Err(BackendError::Limit { what, value: head_dim % 16, limit: 0 });
        }
        if head_dim == 0 || head_dim > LARGEST_HEAD {
            let what = "the head dimension";
            return Err(BackendError::Limit { what, value: head_dim, limit: LARGEST_HEAD });
        }
        let (element_type, factor) = element_type(architecture, "the KV cache", spec.data_type)?;
        let bytes = [layers, blocks, kv_heads, block_size, head_dim, element_type.bytes()]
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
            .ok_or(BackendError::OutOfMemory { what: "the KV cache", requested_bytes: usize::MAX })?;
        if u32::try_from(blocks).is_err() {
            return Err(BackendError::OutOfMemory { what: "the KV cache", requested_bytes: bytes });
        }
        let limit = match spec.data_type {
            DataType::F8(format) => format.max() / factor,
            DataType::F32 | DataType::F16 | DataType::BF16 | DataType::I8 => f32::INFINITY,
        };
        Ok(Self { element_type, bytes, factor, limit })
    }
}

impl GpuKvCache {
    pub(super) fn allocate(
        stream: &Stream,
        spec: &KvCacheSpec,
        plan: &CachePlan,
        kernels: CacheKernels,
    ) -> Result<Self, BackendError> {
        let buffer = || DeviceBuffer::new(stream.device(), "the KV cache", plan.bytes);
        let scaled =
            |scale: &KvScale| KvScale { key: scale.key * plan.factor, value: scale.value * plan.factor };
        Ok(Self {
            keys: buffer()?,
            values: buffer()?,
            element_type: plan.element_type,
            scales: spec.scales.iter().map(scaled).collect(),
            limit: plan.limit,
            kernels,
            spec: spec.clone(),
        })
    }

    /// Bytes of one block of one layer, keys or values.
    pub(super) fn block_bytes(&self) -> usize {
        self.spec.kv_heads * self.spec.block_size * self.spec.head_dim * self.element_type.bytes()
    }

    /// Bytes of all blocks of one layer.
    pub(super) fn layer_bytes(&self) -> usize {
        self.spec.blocks * self.block_bytes()
    }

    fn scale(&self, layer: usize) -> KvScale {
        self.scales.get(layer).copied().unwrap_or(KvScale::ONE)
    }

    fn addresses(&self, layer: usize) -> (u64, u64) {
        let offset = (layer * self.layer_bytes()) as u64;
        (self.keys.address() + offset, self.values.address() + offset)
    }

    /// Columns of queries, keys and values together.
    fn width(&self, query_heads: usize) -> usize {
        (query_heads + 2 * self.spec.kv_heads) * self.spec.head_dim
    }
}

/// Over how many blocks of threads a tile's context is split: as many as fill the device, but each with enough of it.
/// A power of two, so that recorded steps are few.
pub(super) fn splits(units: usize, rows: usize, kv_heads: usize, longest_context: usize) -> usize {
    /// Tokens that are worth a block of their own.
    const TOKENS_EACH: usize = 256;
    const MOST: usize = 32;
    let wanted = (2 * units).div_ceil((rows * kv_heads).max(1));
    let affordable = longest_context.div_ceil(TOKENS_EACH);
    let splits = wanted.min(affordable).clamp(1, MOST);
    // Down to a power of two.
    1 << splits.ilog2()
}

/// Rotates, and writes keys and values.
pub(super) fn rotary_and_cache(
    stream: &Stream,
    batch: &DeviceBatch,
    attention: AttentionSpec,
    operands: RotaryAndCache<'_, GpuBackend>,
) -> Result<(), BackendError> {
    let RotaryAndCache { qkv, query_norm, key_norm, epsilon, rope, cache } = operands;
    let rows = batch.facts.rows;
    qkv.check("queries, keys and values", rows, cache.width(attention.query_heads));
    batch.facts.check_cache(cache.spec.blocks, cache.spec.block_size)?;
    let heads = attention.query_heads + 2 * cache.spec.kv_heads;
    let waves = 256 / stream.device().architecture().wave() as usize;
    let (keys, values) = cache.addresses(attention.layer);
    let scale = cache.scale(attention.layer);
    let head_dim = cache.spec.head_dim;
    let address = |norm: Option<&GpuVector>| norm.map_or(0, |norm| norm.buffer.address());
    let of_a_side = [query_norm, key_norm].map(|norm| norm.filter(|norm| norm.columns != head_dim));
    if of_a_side.iter().any(Option::is_some) {
        let columns = [attention.query_heads, cache.spec.kv_heads].map(|heads| heads * head_dim);
        for (norm, columns) in of_a_side.iter().zip(columns) {
            check_operand("a norm of heads", [1, norm.map_or(columns, |norm| norm.columns)], 1, columns);
        }
        let parameters = parameters::SideNorm {
            qkv: qkv.address(),
            query_norm: address(of_a_side[0]),
            key_norm: address(of_a_side[1]),
            data_type: qkv.data_type as u32,
            stride: size(qkv.stride),
            query_columns: size(columns[0]),
            key_columns: size(columns[1]),
            epsilon,
        };
        // SAFETY: the parameters are the kernel's; the norms are as long as their sides, which lie in a row.
        unsafe { cache.kernels.side_norm.launch(stream, [rows, 2, 1], &parameters)? };
    }
    let norm = |vector: Option<&GpuVector>| address(vector.filter(|vector| vector.columns == head_dim));
    let parameters = parameters::Rotary {
        qkv: qkv.address(),
        query_norm: norm(query_norm),
        key_norm: norm(key_norm),
        frequencies: rope.frequencies.address(),
        keys,
        values,
        positions: batch.positions,
        row_sequence: batch.row_sequence,
        sequences: batch.sequences,
        block_tables: batch.block_tables,
        data_type: qkv.data_type as u32,
        stride: size(qkv.stride),
        query_heads: size(attention.query_heads),
        kv_heads: size(cache.spec.kv_heads),
        pairs: size(rope.pairs),
        block_size: size(cache.spec.block_size),
        magnitude: rope.magnitude,
        epsilon,
        key_scale: scale.key,
        value_scale: scale.value,
        limit: cache.limit,
    };
    // SAFETY: the parameters are the kernel's, and the batch's blocks are the cache's: both were checked.
    unsafe { cache.kernels.rotary.launch(stream, [rows, heads.div_ceil(waves), 1], &parameters)? };
    Ok(())
}

/// Bytes that the splits of a step leave for each other.
pub(super) fn partial_bytes(splits: usize, rows: usize, query_heads: usize, head_dim: usize) -> usize {
    if splits == 1 { 0 } else { splits * rows * query_heads * (head_dim + 2) * size_of::<f32>() }
}

/// Attends.
pub(super) fn attend(
    stream: &Stream,
    batch: &DeviceBatch,
    attention: AttentionSpec,
    (qkv, cache, output): (&GpuTensor, &GpuKvCache, &GpuTensor),
    (splits, partial): (usize, u64),
) -> Result<(), BackendError> {
    let KvCacheSpec { kv_heads, head_dim, block_size, blocks, .. } = cache.spec;
    let rows = batch.facts.rows;
    qkv.check("queries, keys and values", rows, cache.width(attention.query_heads));
    output.check("attention's output", rows, attention.query_heads * head_dim);
    batch.facts.check_cache(blocks, block_size)?;
    let (keys, values) = cache.addresses(attention.layer);
    let scale = cache.scale(attention.layer);
    // With a cap, the factor is on what the tangent takes.
    let score_cap = attention.score_cap.unwrap_or(0.0) * std::f32::consts::LOG2_E;
    let unit = attention.score_cap.map_or(std::f32::consts::LOG2_E, f32::recip);
    let parameters = parameters::Attention {
        qkv: qkv.address(),
        output: output.address(),
        keys,
        values,
        partial,
        positions: batch.positions,
        row_sequence: batch.row_sequence,
        sequences: batch.sequences,
        block_tables: batch.block_tables,
        data_type: qkv.data_type as u32,
        qkv_stride: size(qkv.stride),
        output_stride: size(output.stride),
        query_heads: size(attention.query_heads),
        kv_heads: size(kv_heads),
        block_size: size(block_size),
        rows: size(rows),
        window: attention.sliding_window.map_or(0, |window| size(window.min(u32::MAX as usize / 2))),
        splits: size(splits),
        score_scale: attention.scale * scale.key * unit,
        score_cap,
        value_scale: scale.value,
    };
    let head_tiles = (attention.query_heads / kv_heads).div_ceil(TILE_QUERIES);
    // SAFETY: the parameters are the kernels', the batch's blocks are the cache's, and `partial` has room.
    unsafe {
        cache.kernels.attention.attention.launch(
            stream,
            [rows, kv_heads * head_tiles, splits],
            &parameters,
        )?;
        if splits > 1 {
            cache.kernels.attention.combine.launch(stream, [rows, attention.query_heads, 1], &parameters)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::splits;

    #[test]
    fn few_rows_with_long_contexts_are_split() {
        // An MI300X, one sequence, 8 KV heads.
        assert_eq!(splits(304, 1, 8, 8192), 32);
        assert_eq!(splits(304, 1, 8, 1000), 4);
        assert_eq!(splits(304, 1, 8, 100), 1);
        assert_eq!(splits(304, 64, 8, 8192), 2);
        assert_eq!(splits(304, 4096, 8, 8192), 1);
        assert_eq!(splits(0, 0, 0, 0), 1);
    }
}
