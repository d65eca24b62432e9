//! Weights as a checkpoint would hold them.

use half::{bf16, f16};
use octet_backend::{
    Backend, DataType, InputScale, LinearPart, LinearSpec, LinearUse, ScaleShape, WeightView,
};
use octet_float8::Float8Format;

use crate::random::Random;
use crate::{Claims, WIDE_TYPES};

/// How a weight is stored.
pub(crate) type WeightKind = (DataType, ScaleShape);

/// Every kind that a backend with these claims is tried with.
pub(crate) fn weight_kinds(claims: &Claims) -> Vec<WeightKind> {
    let scales = [
        ScaleShape::None,
        ScaleShape::Tensor,
        ScaleShape::Channel,
        ScaleShape::Block { rows: 128, columns: 128 },
    ];
    let narrow = claims.float8_weights.iter();
    let wide = WIDE_TYPES.map(|data_type| (data_type, ScaleShape::None));
    let narrow =
        narrow.map(|&format| DataType::F8(format)).chain(claims.int8_weights.then_some(DataType::I8));
    wide.into_iter().chain(narrow.flat_map(|element| scales.map(|scale| (element, scale)))).collect()
}

/// The owner of what a [`LinearPart`] looks at.
#[derive(Clone, Debug)]
pub(crate) struct HostWeight {
    pub(crate) data_type: DataType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) kind: ScaleShape,
    /// Elements before the first, and between the end of a row and the next one's start.
    gap: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl HostWeight {
    /// A weight with these values, `[rows, columns]`, each rounded to the type.
    pub(crate) fn new(data_type: DataType, columns: usize, values: &[f32]) -> Self {
        let rows = values.len() / columns;
        let bytes = values.iter().flat_map(|&value| encode(data_type, value)).collect();
        Self { data_type, rows, columns, kind: ScaleShape::None, gap: 0, bytes, scales: Vec::new() }
    }

    /// A weight of a realistic magnitude, `1 / sqrt(columns)`. FP8 uses much of its range, its scales differ from
    /// each other and are no powers of two.
    pub(crate) fn random(random: &mut Random, kind: WeightKind, rows: usize, columns: usize) -> Self {
        let magnitude = 1.0 / (columns as f32).sqrt();
        let mut values = random.bells(rows * columns);
        let (data_type, scale) = kind;
        let (max, special) = match data_type {
            // The ends of the range: saturated, the smallest subnormal, negative zero.
            DataType::F8(format) => (format.max(), [format.max(), -format.max(), format.decode(1), -0.0]),
            DataType::I8 => (127.0, [127.0, -128.0, 1.0, 0.0]),
            DataType::F32 | DataType::F16 | DataType::BF16 => {
                values.iter_mut().for_each(|value| *value *= magnitude);
                return Self::new(data_type, columns, &values);
            }
        };
        if scale == ScaleShape::None {
            return Self { kind: scale, ..Self::new(data_type, columns, &values) };
        }
        let spread = max / 4.0;
        values.iter_mut().for_each(|value| *value *= spread);
        values.iter_mut().zip(special).for_each(|(value, special)| *value = special);
        let count = scale.count(rows, columns).unwrap_or(0);
        let scales = (0..count).map(|_| magnitude / spread * (1.25 + random.uniform())).collect();
        Self { kind: scale, scales, ..Self::new(data_type, columns, &values) }
    }

    /// A column for each code of the format that is a finite number, `[rows, codes]`, all rows equal.
    pub(crate) fn all_codes(format: Float8Format, rows: usize) -> Self {
        let codes: Vec<u8> = (0..=255).filter(|&code| format.decode(code).is_finite()).collect();
        let (columns, bytes) = (codes.len(), codes.repeat(rows));
        let data_type = DataType::F8(format);
        Self { data_type, rows, columns, kind: ScaleShape::None, gap: 0, bytes, scales: Vec::new() }
    }

    /// The same weight as a window of a wider matrix, whose other elements are NaN.
    pub(crate) fn within_a_wider_matrix(mut self, gap: usize) -> Self {
        let size = self.data_type.bytes();
        let filling = self.nan().repeat(gap);
        let rows = self.bytes.chunks_exact(self.columns * size);
        let mut bytes: Vec<u8> = rows.flat_map(|row| [&filling[..], row].concat()).collect();
        bytes.extend(&filling);
        (self.bytes, self.gap) = (bytes, gap);
        self
    }

    /// The element that is no number.
    fn nan(&self) -> Vec<u8> {
        encode(self.data_type, f32::NAN)
    }

    /// The magnitudes: for sums of absolute products.
    pub(crate) fn absolute(&self) -> Self {
        let mut absolute = self.clone();
        if self.data_type == DataType::I8 {
            // The one without a magnitude in its own type is taken for the largest that has one.
            absolute
                .bytes
                .iter_mut()
                .for_each(|byte| *byte = byte.cast_signed().saturating_abs().cast_unsigned());
            return absolute;
        }
        // Little-endian: the sign is the highest bit of an element's last byte.
        let size = self.data_type.bytes();
        absolute.bytes.iter_mut().skip(size - 1).step_by(size).for_each(|byte| *byte &= 0x7F);
        absolute
    }

    /// Replaces one element by its type's NaN.
    pub(crate) fn damage(&mut self, row: usize, column: usize) {
        let size = self.data_type.bytes();
        let start = ((row + 1) * self.gap + row * self.columns + column) * size;
        let nan = self.nan();
        self.bytes[start..start + size].copy_from_slice(&nan);
    }

    pub(crate) fn view(&self) -> WeightView<'_> {
        WeightView {
            bytes: &self.bytes[self.gap * self.data_type.bytes()..],
            data_type: self.data_type,
            rows: self.rows,
            columns: self.columns,
            row_stride: self.columns + self.gap,
        }
    }

    pub(crate) fn part(&self) -> LinearPart<'_> {
        LinearPart { weight: self.view(), scale: self.kind.of(&self.scales) }
    }
}

/// One little-endian element.
fn encode(data_type: DataType, value: f32) -> Vec<u8> {
    match data_type {
        DataType::F32 => value.to_le_bytes().to_vec(),
        DataType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        DataType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        DataType::F8(format) => vec![format.encode_saturating(value)],
        DataType::I8 => vec![(value.round_ties_even() as i8).cast_unsigned()],
    }
}

/// A linear of several parts, before any backend has seen it.
pub(crate) struct HostLinear {
    pub(crate) parts: Vec<HostWeight>,
    pub(crate) target: DataType,
    pub(crate) usage: LinearUse,
    pub(crate) bias: Option<Vec<f32>>,
}

impl HostLinear {
    /// One part, kept in its own type.
    pub(crate) fn of(part: HostWeight, usage: LinearUse) -> Self {
        Self { target: part.data_type, parts: vec![part], usage, bias: None }
    }

    /// No parts yet.
    pub(crate) fn of_nothing(target: DataType, usage: LinearUse) -> Self {
        Self { parts: Vec::new(), target, usage, bias: None }
    }

    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    pub(crate) fn columns(&self) -> usize {
        self.parts[0].columns
    }

    /// The magnitudes of weights and bias.
    pub(crate) fn absolute(&self) -> Self {
        Self {
            parts: self.parts.iter().map(HostWeight::absolute).collect(),
            bias: self.bias.as_ref().map(|bias| bias.iter().map(|value| value.abs()).collect()),
            ..*self
        }
    }

    pub(crate) fn load<B: Backend>(&self, backend: &mut B) -> B::Linear {
        self.try_load(backend).unwrap_or_else(|error| {
            let (rows, columns, Self { target, usage, .. }) = (self.rows(), self.columns(), self);
            let HostWeight { data_type, kind, .. } = self.parts[0];
            panic!(
                "[{rows}, {columns}] of {data_type}, {kind:?}, as {target} for {usage:?} was refused: {error}"
            )
        })
    }

    pub(crate) fn try_load<B: Backend>(
        &self,
        backend: &mut B,
    ) -> Result<B::Linear, octet_backend::BackendError> {
        self.try_load_with(backend, None)
    }

    /// Loads it to be multiplied by inputs in FP8, where the device does that.
    pub(crate) fn load_with<B: Backend>(&self, backend: &mut B, input_scale: InputScale) -> B::Linear {
        self.try_load_with(backend, Some(input_scale)).expect("a linear of FP8")
    }

    fn try_load_with<B: Backend>(
        &self,
        backend: &mut B,
        input_scale: Option<InputScale>,
    ) -> Result<B::Linear, octet_backend::BackendError> {
        let parts: Vec<LinearPart<'_>> = self.parts.iter().map(HostWeight::part).collect();
        let spec =
            LinearSpec { data_type: self.target, usage: self.usage, bias: self.bias.clone(), input_scale };
        backend.load_linear(spec, &parts)
    }
}
