//! Lines of the results file: fields between commas, without quoting.

use octet_backend::{GemmProblem, SignatureError, Validator};

/// First field of a validator.
const VALIDATOR: &str = "Validator";

/// Last field of a line that somebody was interrupted in, put there by the next writer.
pub(crate) const HALF_WRITTEN: &str = "HALF_WRITTEN";

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Too few fields.
    #[error("a result has at least three fields and a validator three, this line has {0}")]
    Fields(usize),
    /// The first two fields are no product.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// No solution.
    #[error("the name of the solution is empty")]
    Solution,
    /// A time that is none.
    #[error("{0:?} is no time in milliseconds")]
    Time(String),
    /// The file ends in the middle of it.
    #[error("the line has no end: whoever wrote it was interrupted")]
    HalfWritten,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Line {
    /// Nothing.
    Empty,
    /// Something that results depend on.
    Validator(Validator),
    /// A result.
    Result {
        /// The product.
        problem: GemmProblem,
        /// Name of its solution.
        solution: String,
        /// Its time; 0 if the line has none.
        milliseconds: f64,
    },
}

impl Line {
    /// Reads a line without its end.
    pub(crate) fn parse(text: &str) -> Result<Self, LineFault> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::Empty);
        }
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        if fields.last() == Some(&HALF_WRITTEN) {
            return Err(LineFault::HalfWritten);
        }
        if fields[0] == VALIDATOR {
            let [_, key, value] = fields[..] else { return Err(LineFault::Fields(fields.len())) };
            return Ok(Self::Validator(Validator { key: key.to_owned(), value: value.to_owned() }));
        }
        let [operation, parameters, solution] = *fields.get(..3).unwrap_or_default() else {
            return Err(LineFault::Fields(fields.len()));
        };
        let problem = GemmProblem::from_signatures(operation, parameters)?;
        if solution.is_empty() {
            return Err(LineFault::Solution);
        }
        let time = fields.get(3).copied().unwrap_or("0");
        let milliseconds = time.parse().ok().filter(|time: &f64| time.is_finite() && *time >= 0.0);
        let milliseconds = milliseconds.ok_or_else(|| LineFault::Time(time.to_owned()))?;
        Ok(Self::Result { problem, solution: solution.to_owned(), milliseconds })
    }
}

/// A validator's line, with its end.
pub(crate) fn validator(validator: &Validator) -> String {
    format!("{VALIDATOR},{},{}\n", validator.key, validator.value)
}

/// A result's line, with its end.
pub(crate) fn result(problem: &GemmProblem, solution: &str, milliseconds: f64) -> String {
    let (operation, parameters) = (problem.operation_signature(), problem.parameter_signature());
    format!("{operation},{parameters},{solution},{milliseconds:.5}\n")
}

/// A line of the file of untuned problems, with its end.
pub(crate) fn untuned(problem: &GemmProblem) -> String {
    format!("{},{}\n", problem.operation_signature(), problem.parameter_signature())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tunable_op_are_read() {
        let line = Line::parse("GemmTunableOp_BFloat16_TN,tn_28672_1_4096,Gemm_Hipblaslt_TN_12345,0.0712\r");
        let Ok(Line::Result { problem, solution, milliseconds }) = line else { panic!("{line:?}") };
        assert_eq!((problem.rows, problem.bucket.tokens(), problem.columns), (28672, 1, 4096));
        assert_eq!((solution.as_str(), milliseconds), ("Gemm_Hipblaslt_TN_12345", 0.0712));
        let written = result(&problem, &solution, milliseconds);
        assert_eq!(Line::parse(&written), Line::parse(written.trim_end()));
        let without_time = Line::parse("GemmTunableOp_BFloat16_TN,tn_28672_1_4096,Default");
        assert!(matches!(without_time, Ok(Line::Result { milliseconds: 0.0, .. })), "{without_time:?}");
        let logged = "GemmTunableOp_BFloat16_TN,tn_1_1_1,Default,0.1,BLAS_PARAMS: {a: 1, b: 2}";
        assert!(matches!(Line::parse(logged), Ok(Line::Result { .. })));
        let parsed = Line::parse("Validator,PT_VERSION,2.5.0");
        assert_eq!(parsed, Ok(Line::Validator(Validator::new("PT_VERSION", "2.5.0"))));
        assert_eq!(Line::parse("  "), Ok(Line::Empty));
    }

    #[test]
    fn a_validator_survives_its_line() {
        let odd = Validator::new("DEVICE_NAME", "A CPU, with\ncommas ,and  spaces");
        assert_eq!(odd.value, "A CPU with commas and spaces");
        assert_eq!(Line::parse(&validator(&odd)), Ok(Line::Validator(odd)));
    }

    #[test]
    fn faults_say_what_they_are() {
        let fault = |text: &str| Line::parse(text).unwrap_err();
        assert_eq!(fault("GemmTunableOp_BFloat16_TN,tn_1_1_1"), LineFault::Fields(2));
        assert_eq!(fault("Validator,PT_VERSION"), LineFault::Fields(2));
        assert_eq!(fault("GemmTunableOp_Half_TN,tn_1_1_1,,1"), LineFault::Solution);
        for time in ["-1", "NaN", "inf", "x"] {
            assert_eq!(
                fault(&format!("GemmTunableOp_Half_TN,tn_1_1_1,Default,{time}")),
                LineFault::Time(time.to_owned())
            );
        }
        assert!(matches!(fault("GemmTunableOp_Half_TN,tn_0_1_1,Default"), LineFault::Signature(_)));
        assert_eq!(fault("GemmTunableOp_Half_TN,tn_1_1_1,Def,HALF_WRITTEN"), LineFault::HalfWritten);
    }
}
