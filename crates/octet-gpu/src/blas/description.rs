//! Which products a library is asked for.

use octet_backend::{DataType, GemmProblem, ScaleShape};

use crate::Kind;

/// A product of any number of rows as a library sees it; see the parent module for how it is expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Rows of the weight: columns of the output.
    pub(crate) features: usize,
    /// Columns of weight and input, padded with zeros, and elements from one row of theirs to the next.
    pub(crate) k: usize,
    /// Elements from one row of the output to the next.
    pub(crate) output_stride: usize,
    /// Element type of weight and input.
    pub(crate) operand: DataType,
    /// Element type of the output.
    pub(crate) output: DataType,
    /// Whether each row of weight and input has a scale.
    pub(crate) has_scales: bool,
    /// Whether a bias of f32 is added.
    pub(crate) has_bias: bool,
}

impl Description {
    /// How a library would be asked for a problem; nothing if it is not to be asked. The strides are those of weight and
    /// input, and of the output.
    pub(crate) fn of(kind: Kind, problem: &GemmProblem, [k, output_stride]: [usize; 2]) -> Option<Self> {
        let (operand, output) = (problem.weight, problem.output);
        if problem.activation != operand || (problem.has_bias && kind == Kind::Cuda) {
            return None;
        }
        let has_scales = match (operand, problem.scales) {
            (DataType::BF16 | DataType::F16, ScaleShape::None) => false,
            // Scales of a tensor are kept for each of its rows.
            (DataType::F8(_), ScaleShape::Tensor | ScaleShape::Channel) => true,
            _ => return None,
        };
        let fits = match output {
            DataType::F32 => true,
            DataType::BF16 => operand != DataType::F16,
            DataType::F16 => operand == DataType::F16,
            DataType::F8(_) | DataType::I8 => false,
        };
        fits.then_some(Self {
            features: problem.rows,
            k,
            output_stride,
            operand,
            output,
            has_scales,
            has_bias: problem.has_bias,
        })
    }
}

#[cfg(test)]
mod tests {
    use octet_backend::TokenBucket;
    use octet_float8::Float8Format;

    use super::*;

    const STRIDES: [usize; 2] = [192, 128];

    #[test]
    fn what_is_multiplied_by_its_own_type_is_asked_for() {
        let float8 = DataType::F8(Float8Format::E4M3Fnuz);
        let problem = GemmProblem {
            rows: 100,
            bucket: TokenBucket::of(1),
            columns: 130,
            weight: DataType::BF16,
            activation: DataType::BF16,
            output: DataType::F32,
            scales: ScaleShape::None,
            has_bias: false,
            is_gated: false,
        };
        let found = Description::of(Kind::Hip, &problem, STRIDES).unwrap();
        assert_eq!((found.features, found.k, found.output_stride, found.has_scales), (100, 192, 128, false));
        let with_bias = GemmProblem { has_bias: true, ..problem };
        assert!(Description::of(Kind::Hip, &with_bias, STRIDES).unwrap().has_bias);
        assert_eq!(
            Description::of(Kind::Cuda, &with_bias, STRIDES),
            None,
            "it wants a bias of the output's type"
        );
        let quantized =
            GemmProblem { weight: float8, activation: float8, scales: ScaleShape::Channel, ..problem };
        assert!(Description::of(Kind::Hip, &quantized, STRIDES).unwrap().has_scales);
        for other in [
            GemmProblem { weight: float8, scales: ScaleShape::Channel, ..problem },
            GemmProblem { scales: ScaleShape::Block { rows: 128, columns: 128 }, ..quantized },
            GemmProblem { scales: ScaleShape::None, ..quantized },
            GemmProblem { activation: DataType::F32, ..problem },
            GemmProblem { weight: DataType::F32, activation: DataType::F32, ..problem },
            GemmProblem { output: DataType::F16, ..problem },
            GemmProblem { scales: ScaleShape::Tensor, ..problem },
        ] {
            assert_eq!(Description::of(Kind::Hip, &other, STRIDES), None, "{other}");
        }
    }
}
