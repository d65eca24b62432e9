//! Parameters of the kernels, field by field as in `kernels/`. Addresses are of the device; 0 is none.

/// `NormParams` in `rows.cu`.
#[repr(C)]
pub(super) struct Norm {
    pub(super) input: u64,
    pub(super) weight: u64,
    pub(super) output: u64,
    pub(super) input_type: u32,
    pub(super) output_type: u32,
    pub(super) stride: u32,
    pub(super) inverse_columns: f32,
    pub(super) epsilon: f32,
}

/// `JoinOperands` in `device.h`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct JoinOperands {
    pub(super) residual: u64,
    pub(super) branch: u64,
    pub(super) post_weight: u64,
    pub(super) residual_type: u32,
    pub(super) branch_type: u32,
    pub(super) stride: u32,
    pub(super) inverse_columns: f32,
    pub(super) post_epsilon: f32,
    pub(super) scale: f32,
}

/// `JoinParams` in `rows.cu`.
#[repr(C)]
pub(super) struct Join {
    pub(super) join: JoinOperands,
    pub(super) weight: u64,
    pub(super) output: u64,
    pub(super) output_type: u32,
    pub(super) epsilon: f32,
}

/// `GateParams` in `rows.cu`.
#[repr(C)]
pub(super) struct Gate {
    pub(super) products: u64,
    pub(super) output: u64,
    pub(super) products_type: u32,
    pub(super) output_type: u32,
    pub(super) features: u32,
    pub(super) products_stride: u32,
    pub(super) output_stride: u32,
    pub(super) activation: u32,
}

/// `EmbedParams` in `rows.cu`.
#[repr(C)]
pub(super) struct Embed {
    pub(super) table: u64,
    pub(super) scales: u64,
    pub(super) tokens: u64,
    pub(super) output: u64,
    pub(super) table_type: u32,
    pub(super) output_type: u32,
    pub(super) columns: u32,
    pub(super) table_stride: u32,
    pub(super) output_stride: u32,
    pub(super) groups: u32,
    pub(super) group_columns: u32,
    pub(super) scale: f32,
}

/// `FinishParams` in `rows.cu`.
#[repr(C)]
pub(super) struct Finish {
    pub(super) logits: u64,
    pub(super) columns: u32,
    pub(super) stride: u32,
    pub(super) scale: f32,
    pub(super) cap: f32,
}

/// `GatherParams` in `rows.cu`.
#[repr(C)]
pub(super) struct Gather {
    pub(super) input: u64,
    pub(super) rows: u64,
    pub(super) output: u64,
    pub(super) data_type: u32,
    pub(super) stride: u32,
}

/// `SideNormParams` in `rotary.cu`.
#[repr(C)]
pub(super) struct SideNorm {
    pub(super) qkv: u64,
    pub(super) query_norm: u64,
    pub(super) key_norm: u64,
    pub(super) data_type: u32,
    pub(super) stride: u32,
    pub(super) query_columns: u32,
    pub(super) key_columns: u32,
    pub(super) epsilon: f32,
}

/// `RotaryParams` in `rotary.cu`.
#[repr(C)]
pub(super) struct Rotary {
    pub(super) qkv: u64,
    pub(super) query_norm: u64,
    pub(super) key_norm: u64,
    pub(super) frequencies: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) positions: u64,
    pub(super) row_sequence: u64,
    pub(super) sequences: u64,
    pub(super) block_tables: u64,
    pub(super) data_type: u32,
    pub(super) stride: u32,
    pub(super) query_heads: u32,
    pub(super) kv_heads: u32,
    pub(super) pairs: u32,
    pub(super) block_size: u32,
    pub(super) magnitude: f32,
    pub(super) epsilon: f32,
    pub(super) key_scale: f32,
    pub(super) value_scale: f32,
    pub(super) limit: f32,
}

/// `AttentionParams` in `attention.cu`.
#[repr(C)]
pub(super) struct Attention {
    pub(super) qkv: u64,
    pub(super) output: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) partial: u64,
    pub(super) positions: u64,
    pub(super) row_sequence: u64,
    pub(super) sequences: u64,
    pub(super) block_tables: u64,
    pub(super) data_type: u32,
    pub(super) qkv_stride: u32,
    pub(super) output_stride: u32,
    pub(super) query_heads: u32,
    pub(super) kv_heads: u32,
    pub(super) block_size: u32,
    pub(super) rows: u32,
    pub(super) window: u32,
    pub(super) splits: u32,
    pub(super) score_scale: f32,
    pub(super) score_cap: f32,
    pub(super) value_scale: f32,
}

/// `LinearParams` in `linear.cu`.
#[repr(C)]
pub(super) struct Linear {
    pub(super) weight: u64,
    pub(super) scales: u64,
    pub(super) bias: u64,
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) rows: u32,
    pub(super) features: u32,
    pub(super) k: u32,
    pub(super) input_stride: u32,
    pub(super) output_stride: u32,
    pub(super) output_type: u32,
    pub(super) groups: u32,
    pub(super) group_columns: u32,
    pub(super) input_scales: u64,
}

/// `SampleParams` in `sample.cu`.
#[repr(C)]
pub(super) struct Sample {
    pub(super) logits: u64,
    pub(super) rows: u64,
    pub(super) tokens: u64,
    pub(super) stride: u32,
    pub(super) columns: u32,
}

/// `QuantizeTarget` in `quantize.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct QuantizeTarget {
    pub(super) codes: u64,
    pub(super) scales: u64,
    pub(super) stride: u32,
    pub(super) scale: f32,
}

/// `QuantizeParams` in `quantize.cu`.
#[repr(C)]
pub(super) struct Quantize {
    pub(super) input: u64,
    pub(super) target: QuantizeTarget,
    pub(super) data_type: u32,
    pub(super) stride: u32,
}

/// `NormFloat8Params` in `quantize.cu`.
#[repr(C)]
pub(super) struct NormFloat8 {
    pub(super) input: u64,
    pub(super) weight: u64,
    pub(super) target: QuantizeTarget,
    pub(super) input_type: u32,
    pub(super) stride: u32,
    pub(super) inverse_columns: f32,
    pub(super) epsilon: f32,
}

/// `JoinFloat8Params` in `quantize.cu`.
#[repr(C)]
pub(super) struct JoinFloat8 {
    pub(super) join: JoinOperands,
    pub(super) weight: u64,
    pub(super) target: QuantizeTarget,
    pub(super) epsilon: f32,
}

/// `GateFloat8Params` in `quantize.cu`.
#[repr(C)]
pub(super) struct GateFloat8 {
    pub(super) products: u64,
    pub(super) target: QuantizeTarget,
    pub(super) data_type: u32,
    pub(super) features: u32,
    pub(super) stride: u32,
    pub(super) activation: u32,
}

/// A size as kernels take it. Everything that is larger was refused when it was allocated.
pub(super) fn size(value: usize) -> u32 {
    u32::try_from(value).expect("sizes that kernels get were checked when memory was allocated")
}
