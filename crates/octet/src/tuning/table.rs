//! The table at the end of `octet tune`: problem, default, best, gain, fraction of the floor.

use std::io::{self, Write};

use octet_backend::GemmProblem;
use octet_tune::{Outcome, TunedGemm};

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) problem: GemmProblem,
    solution: String,
    /// Milliseconds of the default; none if the result is of an earlier session.
    default_ms: Option<f64>,
    best_ms: f64,
    floor_ms: Option<f64>,
}

impl Row {
    /// A problem that was tuned now.
    pub(crate) fn new(outcome: &Outcome) -> Self {
        Self {
            problem: outcome.problem,
            solution: outcome.solution.clone(),
            default_ms: Some(outcome.default_seconds * 1e3),
            best_ms: outcome.seconds * 1e3,
            floor_ms: None,
        }
    }

    /// A problem with a result of an earlier session, whose file does not say what the default took.
    pub(crate) fn known(problem: GemmProblem, tuned: &TunedGemm) -> Self {
        Self {
            problem,
            solution: tuned.solution.clone(),
            default_ms: None,
            best_ms: tuned.milliseconds,
            floor_ms: None,
        }
    }

    /// The same, beside what no kernel can be faster than.
    pub(crate) fn with_floor(mut self, seconds: Option<f64>) -> Self {
        self.floor_ms = seconds.map(|seconds| seconds * 1e3);
        self
    }

    /// What the best gains over the default, in percent of the default's time.
    pub(crate) fn gain(&self) -> String {
        match self.default_ms {
            Some(default_ms) if default_ms > 0.0 => {
                format!("{:.1}%", 100.0 * (1.0 - self.best_ms / default_ms))
            }
            _ => "-".to_owned(),
        }
    }

    fn cells(&self) -> [String; 6] {
        let milliseconds = |time: f64| format!("{time:.4}");
        let of_floor = match self.floor_ms {
            Some(floor_ms) if self.best_ms > 0.0 => format!("{:.0}%", 100.0 * floor_ms / self.best_ms),
            _ => "-".to_owned(),
        };
        [
            self.problem.to_string(),
            self.default_ms.map_or_else(|| "-".to_owned(), milliseconds),
            milliseconds(self.best_ms),
            self.gain(),
            of_floor,
            self.solution.clone(),
        ]
    }
}

/// All problems of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Writes the table, columns aligned; nothing if it is empty.
    ///
    /// # Errors
    /// Of the writer.
    pub(crate) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let header = ["product", "default ms", "best ms", "gain", "of floor", "solution"].map(str::to_owned);
        let lines: Vec<[String; 6]> =
            std::iter::once(header).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for [problem, default, best, gain, floor, solution] in &lines {
            writeln!(
                output,
                "{problem:<0$}  {default:>1$}  {best:>2$}  {gain:>3$}  {floor:>4$}  {solution}",
                widths[0], widths[1], widths[2], widths[3], widths[4]
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use octet_backend::{DataType, ScaleShape, TokenBucket};

    use super::*;

    #[test]
    fn the_table_tells_gain_and_floor() {
        let problem = GemmProblem {
            rows: 64,
            bucket: TokenBucket::of(1),
            columns: 32,
            weight: DataType::BF16,
            activation: DataType::F32,
            output: DataType::F32,
            scales: ScaleShape::None,
            has_bias: false,
            is_gated: false,
        };
        let outcome = Outcome {
            problem,
            solution: "Better".to_owned(),
            seconds: 0.08,
            default_seconds: 0.1,
            is_complete: true,
            all: Vec::new(),
        };
        let known = TunedGemm { solution: "Default".to_owned(), milliseconds: 5.0, line: Some(3) };
        let mut table = Table::default();
        table.push(Row::new(&outcome).with_floor(Some(0.06)));
        table.push(Row::known(problem.with_tokens(8), &known));
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        let expected = "\
product                      default ms  best ms   gain  of floor  solution
bfloat16 [64, 32], 1 token     100.0000  80.0000  20.0%       75%  Better
bfloat16 [64, 32], 8 tokens           -   5.0000      -         -  Default
";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
