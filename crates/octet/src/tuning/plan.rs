//! What is to be done about tuning: flags first, then TunableOp's variables, then defaults.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use octet_backend::DeviceInfo;
use octet_tune::{Environment, LibraryChoice, TuningSettings, VerboseOutput, results_file, untuned_file};

use crate::cli::tuning::{GemmArgs, GemmTuningMode, TuneArgs};
use crate::report;

/// Number of the device in the names of files: there is one device in a process.
const ORDINAL: usize = 0;

/// The longest run in a server's idle time: about as long as a new request may wait.
const BACKGROUND_RUN: Duration = Duration::from_millis(20);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GemmMode {
    /// Nothing.
    Off,
    /// Results are used.
    Use,
    /// And missing ones are measured, first.
    Tune,
    /// And missing ones are measured in idle time.
    Background,
}

/// Everything about tuning that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct GemmPlan {
    pub(crate) mode: GemmMode,
    /// The results file of this device.
    pub(crate) file: PathBuf,
    /// Whether tuning or the file was asked for: then a missing file is worth a line.
    pub(crate) is_explicit: bool,
    /// The file is all that is wanted: one that cannot be written is an error.
    pub(crate) must_write: bool,
    /// Limits and the numerical check.
    pub(crate) settings: TuningSettings,
    /// Where problems without results are recorded.
    pub(crate) record: Option<PathBuf>,
    /// A file of PyTorch's to take over.
    pub(crate) import: Option<PathBuf>,
    /// How much is said about single results.
    pub(crate) verbose: u8,
    /// Where that goes.
    pub(crate) verbose_output: VerboseOutput,
    /// As many bytes of weights take turns, if it was said.
    pub(crate) rotating_bytes: Option<usize>,
    /// What is wanted of a GPU's BLAS library.
    pub(crate) library: LibraryChoice,
    /// Variables that mean nothing on any device.
    ignored: Vec<String>,
}

impl GemmPlan {
    /// The plan of `serve` and `bench latency`.
    ///
    /// # Errors
    /// A variable that cannot be read.
    pub(crate) fn new(arguments: &GemmArgs) -> Result<Self> {
        Self::of(arguments, Environment::read(variables())?)
    }

    /// The plan of `octet tune`, which tunes whatever the variables say about that.
    ///
    /// # Errors
    /// A variable that cannot be read.
    pub(crate) fn of_tune(arguments: &TuneArgs) -> Result<Self> {
        let gemm = GemmArgs {
            gemm_tuning: Some(GemmTuningMode::Tune),
            gemm_tuning_file: arguments.gemm_tuning_file.clone(),
            gemm_tuning_budget: arguments.budget,
            record_untuned: arguments.record_untuned,
            import_tunableop: arguments.import_tunableop.clone(),
        };
        let environment = Environment { record_untuned: false, ..Environment::read(variables())? };
        let is_explicit = arguments.gemm_tuning_file.is_some() || environment.names_results;
        Ok(Self { is_explicit, must_write: true, ..Self::of(&gemm, environment)? })
    }

    fn of(arguments: &GemmArgs, environment: Environment) -> Result<Self> {
        let mode = match (arguments.gemm_tuning, environment.enabled) {
            (Some(GemmTuningMode::Tune), _) => GemmMode::Tune,
            (Some(GemmTuningMode::Use), _) | (None, None) => GemmMode::Use,
            (Some(GemmTuningMode::Off), _) | (None, Some(false)) => GemmMode::Off,
            (Some(GemmTuningMode::Background), _) => GemmMode::Background,
            (None, Some(true)) if environment.tuning => GemmMode::Tune,
            (None, Some(true)) => GemmMode::Use,
        };
        let name = arguments.gemm_tuning_file.as_ref().unwrap_or(&environment.results);
        let is_explicit = arguments.gemm_tuning.is_some()
            || arguments.gemm_tuning_file.is_some()
            || environment.enabled.is_some()
            || environment.names_results;
        let records = arguments.record_untuned || (environment.record_untuned && mode == GemmMode::Use);
        // What is written down is tuned later.
        let mode = if records { GemmMode::Use } else { mode };
        if arguments.gemm_tuning_budget.is_some() && mode != GemmMode::Tune {
            bail!("--gemm-tuning-budget is a limit of --gemm-tuning tune, and nothing is tuned first here");
        }
        let mut settings = environment.settings;
        settings.limits.total = arguments.gemm_tuning_budget;
        settings.limits.longest_run = (mode == GemmMode::Background).then_some(BACKGROUND_RUN);
        Ok(Self {
            mode,
            file: results_file(name, ORDINAL),
            is_explicit,
            must_write: false,
            settings,
            record: records.then(|| untuned_file(&environment.untuned, ORDINAL)),
            import: arguments.import_tunableop.clone(),
            verbose: environment.verbose,
            verbose_output: environment.verbose_output,
            rotating_bytes: environment.rotating_bytes,
            library: environment.library,
            ignored: environment.ignored,
        })
    }

    /// The same with a limit for what is tuned first, unless one was given.
    pub(crate) fn within(mut self, total: Duration) -> Self {
        if self.mode == GemmMode::Tune {
            self.settings.limits.total.get_or_insert(total);
        }
        self
    }

    /// Names variables that mean nothing on this device: on a CPU, those of a GPU's library too.
    pub(crate) fn warn(&self, info: &DeviceInfo) {
        let mut ignored = self.ignored.clone();
        if info.kind == "cpu" {
            ignored.extend(self.library.variables());
        }
        if !ignored.is_empty() {
            let names = ignored.join(", ");
            report::line(format_args!("warning: on this device nothing is meant by {names}"));
        }
    }
}

/// The process's variables, as far as they are text.
fn variables() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(mode: Option<GemmTuningMode>, variables: &[(&str, &str)]) -> GemmPlan {
        let arguments = GemmArgs { gemm_tuning: mode, ..GemmArgs::default() };
        let name = |name: &str| format!("PYTORCH_TUNABLEOP_{name}");
        let variables = variables.iter().map(|(key, value)| (name(key), (*value).to_owned()));
        GemmPlan::of(&arguments, Environment::read(variables).unwrap()).unwrap()
    }

    #[test]
    fn variables_are_defaults_of_flags() {
        let modes = [
            (None, vec![], GemmMode::Use),
            (None, vec![("ENABLED", "1")], GemmMode::Tune),
            (None, vec![("ENABLED", "1"), ("TUNING", "0")], GemmMode::Use),
            (None, vec![("ENABLED", "0")], GemmMode::Off),
            (Some(GemmTuningMode::Off), vec![("ENABLED", "1")], GemmMode::Off),
            (Some(GemmTuningMode::Background), vec![("ENABLED", "0")], GemmMode::Background),
        ];
        for (flag, variables, expected) in modes {
            assert_eq!(plan(flag, &variables).mode, expected, "{flag:?} {variables:?}");
        }
        assert!(!plan(None, &[]).is_explicit && plan(None, &[("FILENAME", "a.csv")]).is_explicit);
        assert_eq!(plan(None, &[("FILENAME", "a.csv")]).file, Path::new("a0.csv"));
    }

    #[test]
    fn budgets_are_for_what_is_tuned_first() {
        let minute = Duration::from_secs(60);
        let tune = plan(Some(GemmTuningMode::Tune), &[]);
        assert_eq!(tune.clone().within(minute).settings.limits.total, Some(minute));
        let background = plan(Some(GemmTuningMode::Background), &[]).within(minute);
        let limits = background.settings.limits;
        assert_eq!((limits.total, limits.longest_run), (None, Some(BACKGROUND_RUN)));
        let arguments = GemmArgs { gemm_tuning_budget: Some(minute), ..GemmArgs::default() };
        let refused = GemmPlan::of(&arguments, Environment::default()).unwrap_err().to_string();
        assert!(refused.contains("--gemm-tuning-budget"), "{refused}");
    }

    #[test]
    fn untuned_problems_are_recorded_instead_of_being_tuned() {
        let recording = [("ENABLED", "1"), ("TUNING", "0"), ("RECORD_UNTUNED", "1")];
        assert_eq!(plan(None, &recording).record.as_deref(), Some(Path::new("tunableop_untuned0.csv")));
        assert_eq!(plan(None, &[("ENABLED", "1"), ("RECORD_UNTUNED", "1")]).record, None);
        assert_eq!(plan(None, &recording[..2]).record, None);
    }
}
