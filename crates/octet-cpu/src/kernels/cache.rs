//! The paged KV cache in the order in which attention reads it.
//!
//! A layer is one buffer, `[blocks, kv_heads, keys then values of block_size tokens]`. A block's tokens are cut into
//! panels of [`PANEL`]:
//!
//! - keys of a panel: `[head_dim, 16 tokens]`, so that sixteen scores are a vector and need no sum across lanes;
//! - values of a panel: `[head_dim / 16, 16 tokens, 16 dimensions]`, the head padded to a multiple of sixteen, so that
//!   sixteen dimensions of a token are a vector and a panel is read from front to back.
//!
//! What one head of one block holds lies together, and a decode step streams through it.

use octet_backend::{BackendError, KvCacheSpec, KvScale};

use super::storage::{Storage, StorageKind};
use crate::memory::AlignedBuffer;

/// Tokens of a panel: the lanes of a vector.
pub(crate) const PANEL: usize = crate::simd::LANES;

/// The largest head for which kernels have room on their stack.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// Keys and values of all layers.
pub struct CpuKvCache {
    pub(crate) spec: KvCacheSpec,
    pub(crate) layout: Layout,
    pub(crate) kind: StorageKind,
    layers: Vec<AlignedBuffer<u8>>,
}

/// Where things lie inside a layer, in elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// `head_dim`, padded to whole vectors.
    pub(crate) padded_head_dim: usize,
    pub(crate) block_size: usize,
}

impl Layout {
    /// Elements of one head of one block: keys, then values.
    fn head_elements(&self) -> usize {
        self.block_size * (self.head_dim + self.padded_head_dim)
    }

    /// Elements of one block.
    fn block_elements(&self) -> usize {
        self.kv_heads * self.head_elements()
    }

    /// Start of the keys of a panel: the one with this number within its block.
    pub(crate) fn key_panel(&self, block: u32, head: usize, panel: usize) -> usize {
        let head_start = block as usize * self.block_elements() + head * self.head_elements();
        head_start + panel * PANEL * self.head_dim
    }

    /// Start of the values of a panel.
    pub(crate) fn value_panel(&self, block: u32, head: usize, panel: usize) -> usize {
        let head_start = block as usize * self.block_elements() + head * self.head_elements();
        head_start + self.block_size * self.head_dim + panel * PANEL * self.padded_head_dim
    }
}

impl CpuKvCache {
    /// Allocates the cache, all zeros.
    ///
    /// # Errors
    /// A type or block size without a kernel, a head that is too large, scales that do not match the layers, no memory.
    pub(crate) fn allocate(spec: &KvCacheSpec) -> Result<Self, BackendError> {
        let kind = StorageKind::of(spec.data_type)?;
        if spec.block_size == 0 || !spec.block_size.is_multiple_of(PANEL) {
            return Err(BackendError::BlockSize { block_size: spec.block_size, multiple_of: PANEL });
        }
        if spec.head_dim > MAX_HEAD_DIM {
            return Err(BackendError::Limit { what: "head_dim", value: spec.head_dim, limit: MAX_HEAD_DIM });
        }
        if spec.scales.len() != spec.layers {
            return Err(BackendError::Shape {
                found_rows: spec.scales.len(),
                found_columns: 2,
                expected_rows: spec.layers,
                expected_columns: 2,
            });
        }
        let layout = Layout {
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            padded_head_dim: spec.head_dim.next_multiple_of(PANEL),
            block_size: spec.block_size,
        };
        let block_bytes = layout.block_elements() * spec.data_type.bytes();
        let no_room = BackendError::OutOfMemory {
            what: "the KV cache",
            requested_bytes: spec.blocks.saturating_mul(spec.block_bytes()),
        };
        let layer_bytes = spec.blocks.checked_mul(block_bytes).ok_or(no_room)?;
        let layers =
            (0..spec.layers).map(|_| AlignedBuffer::zeroed(layer_bytes)).collect::<Result<_, _>>()?;
        Ok(Self { spec: spec.clone(), layout, kind, layers })
    }

    /// Scales of a layer.
    pub(crate) fn scale(&self, layer: usize) -> KvScale {
        self.spec.scales[layer]
    }

    /// The elements of a layer.
    pub(crate) fn layer<K: Storage>(&self, layer: usize) -> &[K::Element] {
        let bytes = &*self.layers[layer];
        assert_eq!(size_of::<K::Element>(), self.spec.data_type.bytes(), "another type than the cache's");
        let len = bytes.len() / size_of::<K::Element>();
        // SAFETY: the buffer is aligned to 64 bytes and holds `len` elements of a type without invalid patterns.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), len) }
    }

    /// The elements of a layer, for writing by several workers.
    pub(crate) fn layer_mut<K: Storage>(&mut self, layer: usize) -> LayerWriter<'_, K> {
        let scale = self.scale(layer);
        let layout = self.layout;
        let bytes = &mut *self.layers[layer];
        assert_eq!(size_of::<K::Element>(), self.spec.data_type.bytes(), "another type than the cache's");
        let len = bytes.len() / size_of::<K::Element>();
        LayerWriter { start: bytes.as_mut_ptr().cast(), len, layout, scale, cache: std::marker::PhantomData }
    }

    /// Fills the cache with a pattern.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, pattern: &[u8]) {
        for layer in &mut self.layers {
            layer.chunks_exact_mut(pattern.len()).for_each(|element| element.copy_from_slice(pattern));
        }
    }

    /// Fails unless the block exists.
    pub(crate) fn check_block(&self, block: u32) -> Result<(), BackendError> {
        if (block as usize) < self.spec.blocks {
            return Ok(());
        }
        let limit = self.spec.blocks.saturating_sub(1);
        Err(BackendError::Limit { what: "a block id", value: block as usize, limit })
    }
}

/// Writes tokens into a layer, from several workers at once.
pub(crate) struct LayerWriter<'a, K: Storage> {
    start: *mut K::Element,
    len: usize,
    layout: Layout,
    scale: KvScale,
    cache: std::marker::PhantomData<&'a mut [K::Element]>,
}

// SAFETY: it stands for an exclusive borrow of the layer; `write` asks its callers to keep tokens apart.
unsafe impl<K: Storage> Sync for LayerWriter<'_, K> {}

impl<K: Storage> LayerWriter<'_, K> {
    /// Stores the key and the value of one head, `[head_dim]` each, at a slot of a block.
    ///
    /// # Safety
    /// No other worker writes the same slot of the same block, or reads it, meanwhile.
    ///
    /// # Panics
    /// If the block lies outside the cache.
    pub(crate) unsafe fn write(&self, (block, slot): (u32, usize), head: usize, key: &[f32], value: &[f32]) {
        let layout = &self.layout;
        let (panel, token) = (slot / PANEL, slot % PANEL);
        assert!(slot < layout.block_size && head < layout.kv_heads);
        let mut encoded = [K::Element::default(); MAX_HEAD_DIM];
        let encoded = &mut encoded[..layout.head_dim];

        let keys = layout.key_panel(block, head, panel);
        let values = layout.value_panel(block, head, panel);
        assert!(values + PANEL * layout.padded_head_dim <= self.len, "block {block} of a smaller cache");
        K::encode(key, self.scale.key, encoded);
        for (dimension, &element) in encoded.iter().enumerate() {
            // SAFETY: inside the panel, which lies inside the layer; this worker owns the slot.
            unsafe { self.start.add(keys + dimension * PANEL + token).write(element) };
        }
        K::encode(value, self.scale.value, encoded);
        for (tile, elements) in encoded.chunks(PANEL).enumerate() {
            let target = values + (tile * PANEL + token) * PANEL;
            // SAFETY: as above; a tile has sixteen places for each token.
            unsafe {
                std::ptr::copy_nonoverlapping(elements.as_ptr(), self.start.add(target), elements.len());
            }
        }
    }
}

/// Calls a generic function with the [`Storage`] of a [`StorageKind`].
macro_rules! with_storage {
    ($kind:expr, $storage:ident => $body:expr) => {{
        use $crate::kernels::storage::{self, StorageKind};
        match $kind {
            StorageKind::F32 => {
                type $storage = storage::StoredF32;
                $body
            }
            StorageKind::Bf16 => {
                type $storage = storage::StoredBf16;
                $body
            }
            StorageKind::F16 => {
                type $storage = storage::StoredF16;
                $body
            }
            StorageKind::E4m3 => {
                type $storage = storage::StoredE4m3;
                $body
            }
            StorageKind::E5m2 => {
                type $storage = storage::StoredE5m2;
                $body
            }
        }
    }};
}
pub(crate) use with_storage;
