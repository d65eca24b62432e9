//! Inputs in FP8: for linears whose checkpoint foresees them, on devices that multiply E4M3 by E4M3.
//!
//! A norm or a gated linear that was told so (`Backend::prepare_input`) writes its output as codes and scales into the
//! tensor's own memory; what arrives wide, such as attention's output, is quantized into memory of the backend.

use std::sync::Arc;

use octet_backend::{BackendError, DataType, InputScale, LinearPart, LinearSpec, LinearUse, ScaleShape};
use octet_float8::Float8Format;

use crate::GpuError;
use crate::architecture::Architecture;
use crate::backend::parameters::{self, size};
use crate::backend::{GpuBackend, GpuLinear, GpuTensor};
use crate::driver::{Function, Module, Stream};
use crate::kernels::Source;
use crate::modules::Pending;

/// Rows of codes are padded with zeros to this many: products take them in pairs, 64 pairs at once.
pub(super) const CODE_PADDING: usize = 128;

/// Elements from one row of codes to the next.
pub(super) const fn code_stride(columns: usize) -> usize {
    columns.next_multiple_of(CODE_PADDING)
}

/// A matrix in E4M3 (FNUZ on gfx942) on the device: `value = code * scale of its row`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Float8Rows {
    /// Address of the codes, `[rows, stride]` bytes; behind the last column they are 0.
    pub(super) codes: u64,
    /// Bytes from one row to the next, a multiple of [`CODE_PADDING`].
    pub(super) stride: usize,
    /// Address of the scales, `[rows]` of `f32`; with a static scale all are equal, so that the first is that of the
    /// whole matrix.
    pub(super) scales: u64,
}

/// The input of a linear as its kernels, or a library, read it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LinearInput {
    /// In the backend's activation type.
    Wide {
        /// Address of `[rows, stride]` elements.
        address: u64,
        /// Elements from one row to the next.
        stride: usize,
    },
    /// Quantized.
    Float8(Float8Rows),
}

/// How a linear's input is quantized on this device, in its own format's scale; nothing if weights are widened instead.
pub(super) fn input_scale(
    architecture: Architecture,
    spec: &LinearSpec,
    parts: &[LinearPart<'_>],
) -> Option<InputScale> {
    let DataType::F8(format) = spec.data_type else { return None };
    let is_e4m3 = matches!(format, Float8Format::E4M3 | Float8Format::E4M3Fnuz);
    let has_blocks = parts.iter().any(|part| matches!(part.scale.shape(), ScaleShape::Block { .. }));
    if !architecture.multiplies_float8() || !is_e4m3 || has_blocks || spec.usage == LinearUse::Embed {
        return None;
    }
    let (_, factor) = architecture.float8(format)?;
    spec.input_scale.map(|scale| match scale {
        InputScale::Dynamic => InputScale::Dynamic,
        InputScale::Static(scale) => InputScale::Static(scale * factor),
    })
}

/// The kernels of `quantize.cu`.
pub(super) struct Float8Kernels {
    pub(super) rms_norm: Function,
    pub(super) join: Function,
    pub(super) gate: Function,
    quantize_rows: Function,
}

impl Float8Kernels {
    pub(super) fn of(module: &Module) -> Result<Self, GpuError> {
        Ok(Self {
            rms_norm: module.function("rms_norm_float8")?,
            join: module.function("join_float8")?,
            gate: module.function("gate_float8")?,
            quantize_rows: module.function("quantize_rows")?,
        })
    }

    /// Quantizes the first rows of a wide tensor into `target`.
    pub(super) fn quantize(
        &self,
        stream: &Stream,
        rows: usize,
        input: &GpuTensor,
        target: parameters::QuantizeTarget,
    ) -> Result<(), BackendError> {
        let parameters = parameters::Quantize {
            input: input.address(),
            target,
            data_type: input.data_type as u32,
            stride: size(input.stride),
        };
        // SAFETY: the parameters are the kernel's; the target was made for these rows and columns.
        unsafe { self.quantize_rows.launch(stream, [rows, 1, 1], &parameters)? };
        Ok(())
    }
}

impl GpuBackend {
    /// Begins to make the kernels for inputs in FP8, once.
    pub(super) fn begin_float8(&mut self) -> Result<(), GpuError> {
        if self.float8.is_none() {
            let kernels = Pending::start(&self.device, &self.code, &Source::quantize(), Float8Kernels::of)?;
            self.float8 = Some(Arc::new(kernels));
        }
        Ok(())
    }

    /// The input as this weight wants it: quantized if it is not yet.
    pub(super) fn input_of(
        &mut self,
        rows: usize,
        weight: &GpuLinear,
        input: &GpuTensor,
    ) -> Result<LinearInput, BackendError> {
        let found = input.as_input();
        match (weight.input_scale, found) {
            (None, LinearInput::Wide { .. }) | (Some(_), LinearInput::Float8(_)) => Ok(found),
            (None, LinearInput::Float8(_)) => {
                panic!("a tensor that was prepared for a linear of FP8 inputs is read by one of wide inputs")
            }
            (Some(scale), LinearInput::Wide { .. }) => {
                let stride = code_stride(input.columns);
                // Room for the largest step at once, so that it is made once.
                let most_rows = self.workspace_rows;
                let codes = self.scratch(|backend| &mut backend.codes, most_rows * stride)?;
                let scales =
                    self.scratch(|backend| &mut backend.code_scales, most_rows * size_of::<f32>())?;
                let target = target(codes, scales, input.columns, scale);
                let kernels = self.float8.as_ref().expect("begun when the weight was loaded").get()?;
                kernels.quantize(&self.stream, rows, input, target)?;
                Ok(LinearInput::Float8(Float8Rows { codes, stride, scales }))
            }
        }
    }
}

/// Where quantized rows go, and how they are quantized.
pub(super) fn target(
    codes: u64,
    scales: u64,
    columns: usize,
    scale: InputScale,
) -> parameters::QuantizeTarget {
    let scale = match scale {
        InputScale::Dynamic => 0.0,
        InputScale::Static(scale) => scale,
    };
    parameters::QuantizeTarget { codes, scales, stride: size(code_stride(columns)), scale }
}

/// The values of codes that were read back, `[rows, columns]`.
pub(super) fn values(is_fnuz: bool, codes: &[u8], scales: &[f32], columns: usize) -> Vec<f32> {
    let format = if is_fnuz { Float8Format::E4M3Fnuz } else { Float8Format::E4M3 };
    let rows = codes.chunks(code_stride(columns)).zip(scales);
    rows.flat_map(|(row, &scale)| row[..columns].iter().map(move |&code| format.decode(code) * scale))
        .collect()
}
