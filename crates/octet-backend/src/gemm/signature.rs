//! Names of products in the files of PyTorch's TunableOp.
//!
//! There an operation is `GemmTunableOp_<T>_<AB>`, `GemmAndBiasTunableOp_<T>_<AB>` or
//! `ScaledGemmTunableOp_<TA>_<TB>_<TC>_<AB>`, and its parameters are `tn_m_n_k`, followed in newer versions by
//! `_ld_lda_ldb_ldc` and, for scaled ones, by `_rw_{0,1}_bias_{None,type}`. The BLAS counts columns first, so that `A`
//! is the weight, `m` its rows and `n` the tokens; a linear is always `TN`. The newer form is written, both are read.
//!
//! Three things are ours: a plain product whose types differ names all three of them, `Gated` in front is a product
//! that combines gate and up projection, and `_block_<rows>_<columns>` at the end are scales of blocks.

use octet_float8::Float8Format;

use super::{GemmProblem, TokenBucket};
use crate::{DataType, ScaleShape};

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// An operation that no linear is.
    #[error("{0:?} is no operation that is tuned here")]
    Operation(String),
    /// Parameters that cannot be read.
    #[error("{0:?} are no parameters of a product with a weight, such as tn_4096_1_4096")]
    Parameters(String),
    /// A matrix without elements.
    #[error("{0:?} has a size of zero")]
    Zero(String),
}

const TYPES: [(&str, DataType); 8] = [
    ("float", DataType::F32),
    ("Half", DataType::F16),
    ("BFloat16", DataType::BF16),
    ("Float8_e4m3fnuz", DataType::F8(Float8Format::E4M3Fnuz)),
    ("Float8_e4m3fn", DataType::F8(Float8Format::E4M3)),
    ("Float8_e5m2fnuz", DataType::F8(Float8Format::E5M2Fnuz)),
    ("Float8_e5m2", DataType::F8(Float8Format::E5M2)),
    ("Char", DataType::I8),
];

fn type_name(data_type: DataType) -> &'static str {
    TYPES.iter().find(|(_, known)| *known == data_type).map_or("unknown", |(name, _)| name)
}

/// Takes a type and the underscore behind it from the front of a name.
fn take_type(text: &str) -> Option<(DataType, &str)> {
    TYPES.iter().find_map(|(name, data_type)| Some((*data_type, text.strip_prefix(name)?.strip_prefix('_')?)))
}

/// What an operation's name says.
struct Operation {
    weight: DataType,
    activation: DataType,
    output: DataType,
    is_scaled: bool,
    has_bias: bool,
    is_gated: bool,
}

impl Operation {
    fn parse(text: &str) -> Option<Self> {
        let (is_gated, rest) = text.strip_prefix("Gated").map_or((false, text), |rest| (true, rest));
        let (is_scaled, has_bias, rest) = if let Some(rest) = rest.strip_prefix("ScaledGemmTunableOp_") {
            (true, false, rest)
        } else if let Some(rest) = rest.strip_prefix("GemmAndBiasTunableOp_") {
            (false, true, rest)
        } else {
            (false, false, rest.strip_prefix("GemmTunableOp_")?)
        };
        let (weight, rest) = take_type(rest)?;
        let (activation, output, rest) = if rest == "TN" && !is_scaled {
            (weight, weight, rest)
        } else {
            let (activation, rest) = take_type(rest)?;
            let (output, rest) = take_type(rest)?;
            (activation, output, rest)
        };
        (rest == "TN").then_some(Self { weight, activation, output, is_scaled, has_bias, is_gated })
    }
}

/// Takes `_<word>_` and then `COUNT` numbers with underscores between them from the front.
fn take_numbers<'a, const COUNT: usize>(text: &'a str, word: &str) -> Option<([usize; COUNT], &'a str)> {
    let mut rest = text.strip_prefix(word)?;
    let mut numbers = [0; COUNT];
    for number in &mut numbers {
        rest = rest.strip_prefix('_')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        *number = rest[..end].parse().ok()?;
        rest = &rest[end..];
    }
    Some((numbers, rest))
}

/// What parameters say.
struct Parameters {
    sizes: [usize; 3],
    scales: ScaleShape,
    has_bias: bool,
}

impl Parameters {
    fn parse(text: &str, is_scaled: bool) -> Option<Self> {
        let (sizes, mut rest) = take_numbers::<3>(text, "tn")?;
        if let Some((_leading, after)) = take_numbers::<3>(rest, "_ld") {
            rest = after;
        }
        let (mut scales, mut has_bias) = (ScaleShape::None, false);
        if is_scaled {
            // The older form does not say how scales are spread.
            scales = ScaleShape::Tensor;
            if let Some(([rowwise], after)) = take_numbers::<1>(rest, "_rw") {
                scales = if rowwise == 1 { ScaleShape::Channel } else { ScaleShape::Tensor };
                let bias = after.strip_prefix("_bias_")?;
                let end = bias.find('_').unwrap_or(bias.len());
                has_bias = &bias[..end] != "None";
                rest = &bias[end..];
            }
            if let Some(([rows, columns], after)) = take_numbers::<2>(rest, "_block") {
                scales = ScaleShape::Block { rows, columns };
                rest = after;
            }
        }
        rest.is_empty().then_some(Self { sizes, scales, has_bias })
    }
}

impl GemmProblem {
    /// The operation's name: the first field of a result.
    #[must_use]
    pub fn operation_signature(&self) -> String {
        let [weight, activation, output] = [self.weight, self.activation, self.output].map(type_name);
        let gated = if self.is_gated { "Gated" } else { "" };
        if self.scales != ScaleShape::None {
            return format!("{gated}ScaledGemmTunableOp_{weight}_{activation}_{output}_TN");
        }
        let bias = if self.has_bias { "AndBias" } else { "" };
        if self.activation == self.weight && self.output == self.weight {
            return format!("{gated}Gemm{bias}TunableOp_{weight}_TN");
        }
        format!("{gated}Gemm{bias}TunableOp_{weight}_{activation}_{output}_TN")
    }

    /// The parameters: the second field of a result.
    #[must_use]
    pub fn parameter_signature(&self) -> String {
        let Self { rows: m, columns: k, bucket: n, .. } = *self;
        let sizes = format!("tn_{m}_{n}_{k}_ld_{k}_{k}_{}", self.output_columns());
        let bias = if self.has_bias { type_name(self.output) } else { "None" };
        match self.scales {
            ScaleShape::None => sizes,
            ScaleShape::Tensor => format!("{sizes}_rw_0_bias_{bias}"),
            ScaleShape::Channel => format!("{sizes}_rw_1_bias_{bias}"),
            ScaleShape::Block { rows, columns } => {
                format!("{sizes}_rw_0_bias_{bias}_block_{rows}_{columns}")
            }
        }
    }

    /// Reads both names. Token counts that are no bucket's name become their bucket.
    ///
    /// # Errors
    /// Names that are no product with a weight, or one of no size.
    pub fn from_signatures(operation: &str, parameters: &str) -> Result<Self, SignatureError> {
        let op =
            Operation::parse(operation).ok_or_else(|| SignatureError::Operation(operation.to_owned()))?;
        let found = Parameters::parse(parameters, op.is_scaled)
            .ok_or_else(|| SignatureError::Parameters(parameters.to_owned()))?;
        let [rows, tokens, columns] = found.sizes;
        let empty_block =
            matches!(found.scales, ScaleShape::Block { rows, columns } if rows == 0 || columns == 0);
        if rows == 0 || tokens == 0 || columns == 0 || empty_block || (op.is_gated && rows < 2) {
            return Err(SignatureError::Zero(parameters.to_owned()));
        }
        Ok(Self {
            rows,
            bucket: TokenBucket::of(tokens),
            columns,
            weight: op.weight,
            activation: op.activation,
            output: op.output,
            scales: found.scales,
            has_bias: op.has_bias || found.has_bias,
            is_gated: op.is_gated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E4M3: DataType = DataType::F8(Float8Format::E4M3);

    fn problem() -> GemmProblem {
        GemmProblem {
            rows: 6144,
            bucket: TokenBucket::of(16),
            columns: 4096,
            weight: DataType::BF16,
            activation: DataType::BF16,
            output: DataType::BF16,
            scales: ScaleShape::None,
            has_bias: false,
            is_gated: false,
        }
    }

    #[test]
    fn names_are_those_of_tunable_op() {
        let plain = problem();
        let scaled = GemmProblem { weight: E4M3, activation: E4M3, scales: ScaleShape::Channel, ..plain };
        let blocks = ScaleShape::Block { rows: 128, columns: 64 };
        let block = GemmProblem { scales: blocks, has_bias: true, is_gated: true, ..scaled };
        let mixed = GemmProblem { activation: DataType::F32, output: DataType::F32, ..plain };
        let expected = [
            (plain, "GemmTunableOp_BFloat16_TN", "tn_6144_16_4096_ld_4096_4096_6144"),
            (
                GemmProblem { has_bias: true, ..plain },
                "GemmAndBiasTunableOp_BFloat16_TN",
                "tn_6144_16_4096_ld_4096_4096_6144",
            ),
            (mixed, "GemmTunableOp_BFloat16_float_float_TN", "tn_6144_16_4096_ld_4096_4096_6144"),
            (
                scaled,
                "ScaledGemmTunableOp_Float8_e4m3fn_Float8_e4m3fn_BFloat16_TN",
                "tn_6144_16_4096_ld_4096_4096_6144_rw_1_bias_None",
            ),
            (
                block,
                "GatedScaledGemmTunableOp_Float8_e4m3fn_Float8_e4m3fn_BFloat16_TN",
                "tn_6144_16_4096_ld_4096_4096_3072_rw_0_bias_BFloat16_block_128_64",
            ),
        ];
        for (problem, operation, parameters) in expected {
            assert_eq!(problem.operation_signature(), operation);
            assert_eq!(problem.parameter_signature(), parameters);
            assert_eq!(GemmProblem::from_signatures(operation, parameters), Ok(problem));
        }
    }

    #[test]
    fn all_types_and_scales_come_back() {
        for (_, weight) in TYPES {
            for scales in [ScaleShape::None, ScaleShape::Tensor, ScaleShape::Channel] {
                for (has_bias, is_gated) in [(false, false), (true, false), (false, true), (true, true)] {
                    let problem = GemmProblem { weight, scales, has_bias, is_gated, ..problem() };
                    let (operation, parameters) =
                        (problem.operation_signature(), problem.parameter_signature());
                    assert_eq!(GemmProblem::from_signatures(&operation, &parameters), Ok(problem));
                }
            }
        }
    }

    #[test]
    fn the_older_form_is_read() {
        let plain = GemmProblem::from_signatures("GemmTunableOp_BFloat16_TN", "tn_6144_16_4096");
        assert_eq!(plain, Ok(problem()));
        let operation = "ScaledGemmTunableOp_Float8_e4m3fnuz_Float8_e4m3fnuz_BFloat16_TN";
        let scaled = GemmProblem::from_signatures(operation, "tn_6144_13_4096").unwrap();
        assert_eq!((scaled.scales, scaled.bucket.tokens()), (ScaleShape::Tensor, 16));
    }

    #[test]
    fn other_names_are_refused() {
        let parameters = "tn_1_2_3";
        for operation in [
            "",
            "Gemm",
            "GemmTunableOp_tf32_TN",
            "GemmTunableOp_BFloat16_NT",
            "GemmStridedBatchedTunableOp_Half_TN",
        ] {
            let found = GemmProblem::from_signatures(operation, parameters);
            assert_eq!(found, Err(SignatureError::Operation(operation.to_owned())));
        }
        for parameters in [
            "",
            "tn",
            "tn_1_2",
            "nt_1_2_3",
            "tn_1_2_3_",
            "tn_1_2_x",
            "tn_1_2_3_ld_1",
            "tn_1_2_*",
            "tn_1_2_99999999999999999999999",
        ] {
            let found = GemmProblem::from_signatures("GemmTunableOp_Half_TN", parameters);
            assert_eq!(found, Err(SignatureError::Parameters(parameters.to_owned())));
        }
        for parameters in ["tn_0_2_3", "tn_1_0_3", "tn_1_2_0"] {
            let found = GemmProblem::from_signatures("GemmTunableOp_Half_TN", parameters);
            assert_eq!(found, Err(SignatureError::Zero(parameters.to_owned())));
        }
    }
}
