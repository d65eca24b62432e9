//! The environment variables of PyTorch's TunableOp: those that mean something here are obeyed, the others are named.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::TuneError;
use crate::file_name::{RESULTS_FILE, UNTUNED_FILE};
use crate::settings::{NumericalCheck, TuningSettings};

const PREFIX: &str = "PYTORCH_TUNABLEOP_";

/// PyTorch's variable for the memory that a GPU's BLAS library may use, in KiB. It has no prefix.
const WORKSPACE: &str = "HIPBLASLT_WORKSPACE_SIZE";

/// What variables say about a GPU's BLAS library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryChoice {
    /// Whether its solutions take part, if it is said.
    pub is_enabled: Option<bool>,
    /// Memory that they may use, if it is said.
    pub workspace_bytes: Option<usize>,
}

impl LibraryChoice {
    /// The variables that said something, for devices without such a library.
    #[must_use]
    pub fn variables(&self) -> Vec<String> {
        let enabled = self.is_enabled.map(|_| format!("{PREFIX}HIPBLASLT_ENABLED"));
        enabled.into_iter().chain(self.workspace_bytes.map(|_| WORKSPACE.to_owned())).collect()
    }
}

/// Where lines about single results go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VerboseOutput {
    /// Standard error.
    #[default]
    Error,
    /// Standard output.
    Output,
    /// A file.
    File(PathBuf),
}

/// What the variables say.
#[derive(Clone, Debug, PartialEq)]
pub struct Environment {
    /// `ENABLED`, if it is set.
    pub enabled: Option<bool>,
    /// `TUNING`: whether missing results are looked for.
    pub tuning: bool,
    /// `RECORD_UNTUNED`: whether problems without a result are written down.
    pub record_untuned: bool,
    /// `VERBOSE`: 0 says little, 1 names each result, 2 each solution.
    pub verbose: u8,
    /// `VERBOSE_FILENAME`.
    pub verbose_output: VerboseOutput,
    /// `FILENAME`, before the ordinal is put in.
    pub results: PathBuf,
    /// Whether `FILENAME` was set.
    pub names_results: bool,
    /// `UNTUNED_FILENAME`, before the ordinal is put in.
    pub untuned: PathBuf,
    /// `ROTATING_BUFFER_SIZE` in bytes, if it is set and not negative.
    pub rotating_bytes: Option<usize>,
    /// `NUMERICAL_CHECK` and the limits of time and iterations.
    pub settings: TuningSettings,
    /// `HIPBLASLT_ENABLED` and `HIPBLASLT_WORKSPACE_SIZE`.
    pub library: LibraryChoice,
    /// Variables that are set and mean nothing here.
    pub ignored: Vec<String>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            enabled: None,
            tuning: true,
            record_untuned: false,
            verbose: 0,
            verbose_output: VerboseOutput::Error,
            results: RESULTS_FILE.into(),
            names_results: false,
            untuned: UNTUNED_FILE.into(),
            rotating_bytes: None,
            library: LibraryChoice::default(),
            settings: TuningSettings::default(),
            ignored: Vec::new(),
        }
    }
}

impl Environment {
    /// Reads the variables. Others than TunableOp's are skipped; an empty value is one that is not set.
    ///
    /// # Errors
    /// A value that means nothing.
    pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, TuneError> {
        let mut environment = Self::default();
        let mut sorted: Vec<_> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        sorted.sort();
        for (variable, value) in sorted {
            let name = match variable.strip_prefix(PREFIX) {
                Some(name) => name,
                None if variable == WORKSPACE => WORKSPACE,
                None => continue,
            };
            match environment.take(name, &value) {
                Ok(true) => {}
                Ok(false) => environment.ignored.push(variable),
                Err(expected) => return Err(TuneError::Environment { variable, value, expected }),
            }
        }
        Ok(environment)
    }

    /// Takes one variable; says whether it means something here, or what was expected.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, &'static str> {
        let limits = &mut self.settings.limits;
        match name {
            "ENABLED" => self.enabled = Some(flag(value)?),
            "TUNING" => self.tuning = flag(value)?,
            "RECORD_UNTUNED" => self.record_untuned = flag(value)?,
            "VERBOSE" => {
                self.verbose = value.parse().ok().filter(|level| *level <= 3).ok_or("a level from 0 to 3")?;
            }
            "VERBOSE_FILENAME" => {
                self.verbose_output = match value {
                    "err" => VerboseOutput::Error,
                    "out" => VerboseOutput::Output,
                    file => VerboseOutput::File(file.into()),
                }
            }
            "FILENAME" => {
                self.results = value.into();
                self.names_results = true;
            }
            "UNTUNED_FILENAME" => self.untuned = value.into(),
            "HIPBLASLT_ENABLED" => self.library.is_enabled = Some(flag(value)?),
            WORKSPACE => {
                let kibibytes = value.parse::<usize>().ok().and_then(|size| size.checked_mul(1 << 10));
                self.library.workspace_bytes = Some(kibibytes.ok_or("a number of KiB")?);
            }
            "NUMERICAL_CHECK" => self.settings.check = check(value)?,
            "MAX_TUNING_DURATION_MS" => limits.solution = milliseconds(value)?,
            "MAX_TUNING_ITERATIONS" => limits.iterations = count(value)?,
            "MAX_WARMUP_DURATION_MS" => limits.warmup = milliseconds(value)?,
            "MAX_WARMUP_ITERATIONS" => limits.warmup_iterations = count(value)?,
            "ROTATING_BUFFER_SIZE" => {
                let mebibytes = value.parse::<i64>().map_err(|_| "a number of MiB")?;
                self.rotating_bytes =
                    usize::try_from(mebibytes).ok().and_then(|size| size.checked_mul(1 << 20));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn flag(value: &str) -> Result<bool, &'static str> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err("0 or 1"),
    }
}

/// A negative limit is none, as in TunableOp.
fn count(value: &str) -> Result<usize, &'static str> {
    let number = value.parse::<i64>().map_err(|_| "a whole number")?;
    Ok(usize::try_from(number).unwrap_or(0))
}

fn milliseconds(value: &str) -> Result<Duration, &'static str> {
    let number = value.parse::<i64>().map_err(|_| "a whole number of milliseconds")?;
    Ok(Duration::from_millis(u64::try_from(number).unwrap_or(0)))
}

/// `0`, `1` for the default tolerance, or PyTorch's `<absolute>_<relative>`.
fn check(value: &str) -> Result<NumericalCheck, &'static str> {
    let expected = "0, 1 or two tolerances such as 1e-5_1e-5";
    let tolerance =
        |text: &str| text.parse::<f32>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    match value {
        "0" => Ok(NumericalCheck::Off),
        "1" => Ok(NumericalCheck::default()),
        _ => {
            let (absolute, relative) = value.split_once('_').ok_or(expected)?;
            let (absolute, relative) = tolerance(absolute).zip(tolerance(relative)).ok_or(expected)?;
            Ok(NumericalCheck::Close { absolute, relative })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, TuneError> {
        Environment::read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn without_variables_the_defaults_hold() {
        let unset = read(&[("PATH", "/bin"), ("PYTORCH_TUNABLEOP_ENABLED", "")]).unwrap();
        assert_eq!(unset, Environment::default());
    }

    #[test]
    fn every_variable_that_means_something_is_obeyed() {
        let set = read(&[
            ("PYTORCH_TUNABLEOP_ENABLED", "1"),
            ("PYTORCH_TUNABLEOP_TUNING", "0"),
            ("PYTORCH_TUNABLEOP_RECORD_UNTUNED", "1"),
            ("PYTORCH_TUNABLEOP_VERBOSE", "2"),
            ("PYTORCH_TUNABLEOP_VERBOSE_FILENAME", "out"),
            ("PYTORCH_TUNABLEOP_FILENAME", "a%d.csv"),
            ("PYTORCH_TUNABLEOP_UNTUNED_FILENAME", "b.csv"),
            ("PYTORCH_TUNABLEOP_NUMERICAL_CHECK", "1e-2_1e-3"),
            ("PYTORCH_TUNABLEOP_MAX_TUNING_DURATION_MS", "7"),
            ("PYTORCH_TUNABLEOP_MAX_TUNING_ITERATIONS", "8"),
            ("PYTORCH_TUNABLEOP_MAX_WARMUP_DURATION_MS", "9"),
            ("PYTORCH_TUNABLEOP_MAX_WARMUP_ITERATIONS", "-1"),
            ("PYTORCH_TUNABLEOP_ROTATING_BUFFER_SIZE", "3"),
        ])
        .unwrap();
        assert_eq!((set.enabled, set.tuning, set.record_untuned, set.verbose), (Some(true), false, true, 2));
        assert_eq!((set.verbose_output, set.names_results), (VerboseOutput::Output, true));
        assert_eq!((set.results, set.untuned), ("a%d.csv".into(), "b.csv".into()));
        assert_eq!(set.settings.check, NumericalCheck::Close { absolute: 1e-2, relative: 1e-3 });
        let limits = set.settings.limits;
        assert_eq!((limits.solution, limits.iterations), (Duration::from_millis(7), 8));
        assert_eq!((limits.warmup, limits.warmup_iterations), (Duration::from_millis(9), 0));
        assert_eq!((set.rotating_bytes, set.ignored), (Some(3 << 20), vec![]));
    }

    #[test]
    fn variables_without_meaning_are_named() {
        let set = read(&[
            ("PYTORCH_TUNABLEOP_ROCBLAS_ENABLED", "1"),
            ("PYTORCH_TUNABLEOP_BLAS_LOG", "1"),
            ("PYTORCH_TUNABLEOP_HIPBLASLT_ENABLED", "0"),
            ("HIPBLASLT_WORKSPACE_SIZE", "1024"),
        ])
        .unwrap();
        assert_eq!(set.ignored, ["PYTORCH_TUNABLEOP_BLAS_LOG", "PYTORCH_TUNABLEOP_ROCBLAS_ENABLED"]);
        assert_eq!(
            set.library,
            LibraryChoice { is_enabled: Some(false), workspace_bytes: Some(1 << 20) },
            "of a GPU's library"
        );
        assert_eq!(
            set.library.variables(),
            ["PYTORCH_TUNABLEOP_HIPBLASLT_ENABLED", "HIPBLASLT_WORKSPACE_SIZE"]
        );
    }

    #[test]
    fn values_that_mean_nothing_are_errors_that_name_the_variable() {
        for (name, value) in [
            ("PYTORCH_TUNABLEOP_ENABLED", "yes"),
            ("PYTORCH_TUNABLEOP_VERBOSE", "4"),
            ("PYTORCH_TUNABLEOP_NUMERICAL_CHECK", "1e-5"),
            ("PYTORCH_TUNABLEOP_NUMERICAL_CHECK", "-1_1"),
            ("PYTORCH_TUNABLEOP_MAX_TUNING_DURATION_MS", "30ms"),
            ("PYTORCH_TUNABLEOP_ROTATING_BUFFER_SIZE", "x"),
            ("HIPBLASLT_WORKSPACE_SIZE", "-1"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
