//! Linears: checked and packed at load, multiplied by one of three kernels.

use octet_backend::{BackendError, DataType, InputScale, LinearPart, LinearSpec, LinearUse, ScaleShape};
use octet_float8::Float8Format;
use std::sync::Arc;

use crate::GpuError;
use crate::architecture::Architecture;
use crate::backend::float8::{LinearInput, code_stride};
use crate::backend::gemm::{Families, Kernel, ProductRun};
use crate::backend::pack;
use crate::backend::parameters::{self, size};
use crate::backend::tensor::{GpuTensor, PADDING};
use crate::blas::Operands;
use crate::driver::{DeviceBuffer, Function, HostBuffer, Module, Stream};
use crate::kernels::ElementType;
use crate::modules::Pending;

/// A packed weight on the device.
pub struct GpuLinear {
    weight: DeviceBuffer,
    /// `[rows, groups]`.
    scales: Option<DeviceBuffer>,
    bias: Option<DeviceBuffer>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Columns as they are kept: padded with zeros.
    stride: usize,
    element_type: ElementType,
    groups: usize,
    group_columns: usize,
    pub(super) usage: LinearUse,
    /// Set if it is multiplied by inputs in FP8, quantized thus.
    pub(super) input_scale: Option<InputScale>,
    /// Which products it is part of; none if it is only looked up.
    pub(super) families: Option<Families>,
    kernels: Option<Arc<Pending<LinearKernels>>>,
}

/// The kernels of one pair of types.
pub(super) struct LinearKernels {
    skinny: Function,
    tile_32: Function,
    tile_large: Function,
}

impl LinearKernels {
    pub(super) fn of(module: &Module) -> Result<Self, GpuError> {
        Ok(Self {
            skinny: module.function("linear_skinny")?,
            tile_32: module.function("linear_tile_32")?,
            tile_large: module.function("linear_tile_large")?,
        })
    }
}

/// What a linear becomes on the device, decided before anything is copied.
pub(super) struct LinearPlan {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    pub(super) element_type: ElementType,
    /// `[rows, groups]`, or empty.
    pub(super) scales: Vec<f32>,
    pub(super) groups: usize,
    pub(super) group_columns: usize,
    /// Set if it is to be multiplied by inputs in FP8.
    pub(super) input_scale: Option<InputScale>,
}

/// The device's element type for a kept type, with the factor on its scales.
pub(super) fn element_type(
    architecture: Architecture,
    what: &'static str,
    data_type: DataType,
) -> Result<(ElementType, f32), BackendError> {
    let supported = "float32, float16, bfloat16, fp8_e4m3, fp8_e5m2; of weights, the CPU keeps int8 too";
    let unsupported = BackendError::UnsupportedDataType { what, data_type, supported };
    match data_type {
        DataType::F32 => Ok((ElementType::F32, 1.0)),
        DataType::F16 => Ok((ElementType::F16, 1.0)),
        DataType::BF16 => Ok((ElementType::BF16, 1.0)),
        DataType::F8(format) => {
            let element = match format {
                Float8Format::E4M3 | Float8Format::E4M3Fnuz => ElementType::E4M3,
                Float8Format::E5M2 | Float8Format::E5M2Fnuz => ElementType::E5M2,
            };
            architecture.float8(format).map(|(_, factor)| (element, factor)).ok_or(unsupported)
        }
        DataType::I8 => Err(unsupported),
    }
}

impl LinearPlan {
    /// Checks parts and scales, and arranges the scales.
    pub(super) fn new(
        architecture: Architecture,
        spec: &LinearSpec,
        parts: &[LinearPart<'_>],
    ) -> Result<Self, BackendError> {
        let (rows, columns) = spec.check(parts)?;
        let (element_type, _) = element_type(architecture, "weights", spec.data_type)?;
        let group_columns = group_columns(parts, columns)?;
        let groups = columns.div_ceil(group_columns);
        let mut scales = Vec::new();
        let mut are_needed = false;
        for part in parts {
            // FNUZ bytes mean half, so their scales double; scales of codes that are FNUZ already stay.
            let factor = match part.weight.data_type {
                DataType::F8(format) => architecture.float8(format).map_or(1.0, |(_, factor)| factor),
                _ => 1.0,
            };
            are_needed |= factor != 1.0 || part.scale.shape() != ScaleShape::None;
            for row in 0..part.weight.rows {
                for group in 0..groups {
                    scales.push(factor * part.scale.at(columns, row, group * group_columns));
                }
            }
        }
        if !are_needed {
            scales.clear();
        }
        let stride = columns.next_multiple_of(PADDING);
        let input_scale = None;
        Ok(Self { rows, columns, stride, element_type, scales, groups, group_columns, input_scale })
    }

    /// Makes it a product of FP8 by FP8.
    pub(super) fn with_float8_inputs(self, scale: InputScale) -> Self {
        Self { stride: code_stride(self.columns), input_scale: Some(scale), ..self }
    }

    /// Whether sums are scaled by blocks.
    pub(super) fn is_grouped(&self) -> bool {
        self.groups > 1
    }
}

/// Columns that share a scale: those of the parts' blocks, or all.
fn group_columns(parts: &[LinearPart<'_>], columns: usize) -> Result<usize, BackendError> {
    let mut found = columns;
    for part in parts {
        let ScaleShape::Block { columns: columns_per_block, .. } = part.scale.shape() else { continue };
        if columns_per_block >= columns {
            continue;
        }
        let remainder = columns_per_block % 32;
        if remainder != 0 {
            return Err(BackendError::Limit {
                what: "the remainder by 32 of a block of scales' columns",
                value: remainder,
                limit: 0,
            });
        }
        if found != columns && found != columns_per_block {
            return Err(BackendError::Shape {
                found_rows: 1,
                found_columns: columns_per_block,
                expected_rows: 1,
                expected_columns: found,
            });
        }
        found = columns_per_block;
    }
    Ok(found.max(1))
}

impl GpuLinear {
    /// Copies the parts to the device, through pinned memory.
    pub(super) fn load(
        stream: &Stream,
        staging: &mut HostBuffer,
        spec: &LinearSpec,
        parts: &[LinearPart<'_>],
        (plan, kernels, families): (LinearPlan, Option<Arc<Pending<LinearKernels>>>, Option<Families>),
    ) -> Result<Self, BackendError> {
        let full = BackendError::OutOfMemory { what: "a weight", requested_bytes: usize::MAX };
        let row_bytes = plan.stride * plan.element_type.bytes();
        let bytes = plan.rows.checked_mul(row_bytes).ok_or(full)?;
        let mut weight = DeviceBuffer::new(stream.device(), "a weight", bytes)?;
        let rows_at_once = (staging.bytes() / row_bytes).max(1);
        let mut large = Vec::new();
        let mut offset = 0;
        for part in parts {
            for first in (0..part.weight.rows).step_by(rows_at_once) {
                let rows = first..part.weight.rows.min(first + rows_at_once);
                let bytes = rows.len() * row_bytes;
                if bytes > staging.bytes() {
                    // One row that is larger than the staging memory goes by itself.
                    large.resize(bytes, 0);
                    pack::pack_rows(spec.data_type, part, rows, row_bytes, &mut large)?;
                    weight.write(stream, offset, &large)?;
                } else {
                    let target = &mut staging.as_bytes_mut()[..bytes];
                    pack::pack_rows(spec.data_type, part, rows, row_bytes, target)?;
                    weight.write_pinned(stream, offset, staging, bytes)?;
                    stream.wait()?;
                }
                offset += bytes;
            }
        }
        let floats = |what, values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            DeviceBuffer::holding(stream, what, &bytes)
        };
        let scales =
            (!plan.scales.is_empty()).then(|| floats("a weight's scales", &plan.scales)).transpose()?;
        let bias = spec.bias.as_ref().map(|bias| floats("a bias", bias)).transpose()?;
        let LinearPlan { rows, columns, stride, element_type, groups, group_columns, input_scale, .. } = plan;
        let usage = spec.usage;
        Ok(Self {
            weight,
            scales,
            bias,
            rows,
            columns,
            stride,
            element_type,
            groups,
            group_columns,
            usage,
            input_scale,
            families,
            kernels,
        })
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        let optional = |buffer: &Option<DeviceBuffer>| buffer.as_ref().map_or(0, DeviceBuffer::bytes);
        self.weight.bytes() + optional(&self.scales) + optional(&self.bias)
    }

    /// Its operands for a BLAS library.
    pub(super) fn blas_operands(&self, run: &ProductRun<'_>) -> Operands {
        let address = |buffer: &Option<DeviceBuffer>| buffer.as_ref().map_or(0, DeviceBuffer::address);
        let (input, input_scales) = match run.input.0 {
            LinearInput::Wide { address, .. } => (address, 0),
            LinearInput::Float8(rows) => (rows.codes, rows.scales),
        };
        Operands {
            weight: self.weight.address(),
            input,
            output: run.target.0,
            bias: address(&self.bias),
            weight_scales: address(&self.scales),
            input_scales,
        }
    }

    /// Multiplies by a kernel of ours.
    pub(super) fn multiply(
        &self,
        stream: &Stream,
        kernel: Kernel,
        run: &ProductRun<'_>,
    ) -> Result<(), BackendError> {
        let &ProductRun { rows, input: (input, input_type), .. } = run;
        let (output, output_stride, output_type) = run.target;
        let Some(kernels) = &self.kernels else {
            panic!("a weight loaded as {:?} cannot be multiplied by", self.usage);
        };
        let kernels = kernels.get()?;
        // FP8 products count k in pairs of codes.
        let (address, input_stride, k, input_scales) = match input {
            LinearInput::Wide { address, stride } => (address, stride, self.stride, 0),
            LinearInput::Float8(rows) => (rows.codes, rows.stride / 2, self.stride / 2, rows.scales),
        };
        let parameters = parameters::Linear {
            weight: self.weight.address(),
            scales: self.scales.as_ref().map_or(0, DeviceBuffer::address),
            bias: self.bias.as_ref().map_or(0, DeviceBuffer::address),
            input: address,
            output,
            rows: size(rows),
            features: size(self.rows),
            k: size(k),
            input_stride: size(input_stride),
            output_stride: size(output_stride),
            output_type: output_type as u32,
            groups: size(self.groups),
            group_columns: size(self.group_columns),
            input_scales,
        };
        // Exact types take smaller tiles: see `linear.cu`.
        let is_exact = self.element_type.terms() + input_type.terms() > 2;
        let (tile_features, tile_rows) = if is_exact { (64, 64) } else { (128, 128) };
        let (function, block_features, block_rows) = match kernel {
            Kernel::Skinny => (&kernels.skinny, 16, 16),
            Kernel::Tile32 => (&kernels.tile_32, tile_features, 32),
            Kernel::TileLarge => (&kernels.tile_large, tile_features, tile_rows),
        };
        let grid = [self.rows.div_ceil(block_features), rows.div_ceil(block_rows), 1];
        // SAFETY: the parameters are the kernel's; the operands live as long as the backend's stream is used.
        unsafe { function.launch(stream, grid, &parameters)? };
        Ok(())
    }

    /// The parameters of a look-up of the batch's tokens.
    pub(super) fn look_up(&self, tokens: u64, scale: f32, output: &GpuTensor) -> parameters::Embed {
        parameters::Embed {
            table: self.weight.address(),
            scales: self.scales.as_ref().map_or(0, DeviceBuffer::address),
            tokens,
            output: output.address(),
            table_type: self.element_type as u32,
            output_type: output.data_type as u32,
            columns: size(self.columns),
            table_stride: size(self.stride),
            output_stride: size(output.stride),
            groups: size(self.groups),
            group_columns: size(self.group_columns),
            scale,
        }
    }
}
