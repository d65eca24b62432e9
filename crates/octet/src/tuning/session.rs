//! A results file and a tuner beside a device, and what is said while they work.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use octet_backend::{DeviceInfo, GemmDevice, GemmProblem, Validator};
use octet_tune::{Kept, Outcome, Store, Tuned, Tuner, TunerStep, Untuned, VerboseOutput, Verdict, import};

use super::found::{self, counted, line};
use super::table::{Row, Table};
use super::{GemmMode, GemmPlan};
use crate::report;

/// A session of one process.
pub(crate) struct Session {
    plan: GemmPlan,
    tuner: Tuner,
    untuned: Option<Untuned>,
    begun: Instant,
    /// Results that were found here.
    tuned: usize,
    /// Problems that were looked at and have none.
    skipped: usize,
    table: Table,
    bar: ProgressBar,
    /// The last gain, for the bar.
    last: String,
    /// Why results, or products to record, are not in the file that they should be in.
    unwritten: Option<String>,
    /// The file for single results has been said to be unwritable.
    is_verbose_lost: bool,
}

impl Session {
    /// Reads the results file, hands its results to the device, and says what was found.
    ///
    /// # Errors
    /// A file of PyTorch's that was asked for and cannot be taken over; where the file is all that is wanted, one that
    /// cannot be written.
    pub(crate) fn begin(plan: GemmPlan, info: &DeviceInfo, device: &mut dyn GemmDevice) -> Result<Self> {
        plan.warn(info);
        let mut validators = vec![Validator::new("OCTET_VERSION", env!("CARGO_PKG_VERSION"))];
        validators.extend(device.validators());
        let mut store = Store::open(plan.file.clone(), validators);
        found::apply_and_report(&store, device, &plan);
        let writes = matches!(plan.mode, GemmMode::Tune | GemmMode::Background) || plan.import.is_some();
        let mut unwritten = if writes { prepare_to_write(&mut store) } else { None };
        if let Some(reason) = &unwritten {
            let path = store.path().display();
            if plan.must_write {
                bail!(
                    "{path} cannot be written ({reason}), and nothing was tuned; name another file with --gemm-tuning-file"
                );
            }
            report::line(format_args!(
                "warning: {path} cannot be written ({reason}); results hold for this run alone"
            ));
        }
        if let Some(path) = &plan.import
            && let Some(reason) = take_over(path, &mut store, info, device)?
        {
            let file = store.path().display();
            let loss = format!("{file} cannot be written ({reason}): not all that was taken over is in it");
            report::line(format_args!("warning: {loss}"));
            unwritten = Some(loss);
        }
        let begun = Instant::now();
        let tuner = Tuner::new(store, plan.settings, Box::new(move || begun.elapsed()));
        let untuned = plan.record.clone().map(Untuned::new);
        let bar = ProgressBar::hidden();
        Ok(Self {
            plan,
            tuner,
            untuned,
            begun,
            tuned: 0,
            skipped: 0,
            table: Table::default(),
            bar,
            last: String::new(),
            unwritten,
            is_verbose_lost: false,
        })
    }

    /// What was asked for.
    pub(crate) fn plan(&self) -> &GemmPlan {
        &self.plan
    }

    /// Shows a bar on terminals from now on.
    pub(crate) fn show_bar(&mut self) {
        let style = "{msg} {bar:20} {pos}/{len} [{elapsed_precise}, {prefix} left]";
        let style = ProgressStyle::with_template(style).expect("the template is a constant and valid");
        self.bar = ProgressBar::new(0).with_style(style);
    }

    /// Takes up problems: to be tuned, or to be recorded.
    pub(crate) fn meet(&mut self, problems: &[GemmProblem]) {
        if let Some(untuned) = &mut self.untuned {
            let results = self.tuner.store().results();
            let missing: Vec<_> =
                problems.iter().copied().filter(|problem| results.get(problem).is_none()).collect();
            if let Err(error) = untuned.record(&missing) {
                let path = untuned.path().display();
                if !self.plan.must_write {
                    report::line(format_args!(
                        "warning: {path} cannot be written ({error}); nothing is recorded"
                    ));
                }
                self.unwritten = Some(format!("{path} cannot be written ({error}): no product is recorded"));
                self.untuned = None;
            }
        } else if matches!(self.plan.mode, GemmMode::Tune | GemmMode::Background) {
            self.tuner.add(problems.iter().copied());
        }
    }

    /// Where problems are recorded, if they are.
    pub(crate) fn record_path(&self) -> Option<&std::path::Path> {
        self.untuned.as_ref().map(Untuned::path)
    }

    /// What is lost, if something is because a file could not be written.
    pub(crate) fn loss(&self) -> Option<&str> {
        self.unwritten.as_deref()
    }

    /// Whether there is something to tune, and time for it.
    pub(crate) fn has_work(&self) -> bool {
        self.tuner.has_work()
    }

    /// Problems that are not tuned.
    pub(crate) fn left(&self) -> usize {
        self.tuner.left() + self.skipped
    }

    /// One run of a search at most; says whether there is more to do.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn step(&mut self, device: &mut dyn GemmDevice) -> Result<bool> {
        match self.tuner.step(device)? {
            TunerStep::Ran => self.show(),
            TunerStep::Skipped(_) => self.skipped += 1,
            TunerStep::Tuned(tuned) => self.book(&tuned),
            TunerStep::Idle => {}
        }
        let goes_on = self.tuner.has_work();
        if !goes_on {
            self.bar.finish_and_clear();
        }
        Ok(goes_on)
    }

    fn book(&mut self, tuned: &Tuned) {
        self.tuned += 1;
        if let Kept::InMemory(Some(reason)) = &tuned.kept {
            let path = self.plan.file.display();
            if !self.plan.must_write {
                let warning =
                    format!("warning: {path} cannot be written ({reason}); results hold for this run alone");
                self.bar.suspend(|| report::beside_bar(|| report::line(&warning)));
            }
            let (before, lost) = (self.tuned - 1, tuned.outcome.problem);
            self.unwritten = Some(format!(
                "{path} cannot be written ({reason}): the result for {lost} is lost, {} before it kept",
                counted(before, "result")
            ));
        }
        if self.plan.verbose > 0 {
            self.write_verbose(&tuned.outcome);
        }
        let row = Row::new(&tuned.outcome);
        self.last = row.gain();
        self.table.push(row);
    }

    fn show(&mut self) {
        if self.bar.is_hidden() {
            return;
        }
        let done = self.tuned + self.skipped;
        let left = self.tuner.left();
        self.bar.set_length((done + left) as u64);
        self.bar.set_position(done as u64);
        let name = self.tuner.current().map(ToString::to_string).unwrap_or_default();
        let last = if self.last.is_empty() { String::new() } else { format!(" (last: {})", self.last) };
        self.bar.set_message(format!("{name}{last}"));
        self.bar.set_prefix(self.time_left(done, left));
    }

    /// By the pace so far, and no longer than the budget.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn time_left(&self, done: usize, left: usize) -> String {
        let elapsed = self.begun.elapsed();
        let budget = self.plan.settings.limits.total.map(|total| total.saturating_sub(elapsed));
        let by_pace = (done > 0).then(|| elapsed.mul_f64(left as f64 / done as f64));
        match budget.into_iter().chain(by_pace).min() {
            Some(time) => format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60),
            None => "?".to_owned(),
        }
    }

    /// Writes what a search found where `PYTORCH_TUNABLEOP_VERBOSE_FILENAME` says.
    fn write_verbose(&mut self, outcome: &Outcome) {
        let text = verbose(outcome, self.plan.verbose);
        let written = match &self.plan.verbose_output {
            VerboseOutput::Error => {
                self.bar.suspend(|| report::beside_bar(|| report::line(text.trim_end())));
                Ok(())
            }
            VerboseOutput::Output => self.bar.suspend(|| {
                let mut written = Ok(());
                report::beside_bar(|| written = report::result(&text));
                written
            }),
            VerboseOutput::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(Into::into),
        };
        // The lines are a convenience, and the results do not depend on them: it is said once.
        if let Err(error) = written
            && !std::mem::replace(&mut self.is_verbose_lost, true)
        {
            let warning = format!(
                "warning: PYTORCH_TUNABLEOP_VERBOSE_FILENAME cannot be written ({error}); lines about tuning are lost"
            );
            self.bar.suspend(|| report::beside_bar(|| report::line(&warning)));
        }
    }

    /// One line about what was done, if anything was to do.
    pub(crate) fn summarise(&self) {
        if self.tuned + self.left() == 0 {
            return;
        }
        let left = match self.left() {
            0 => String::new(),
            left => format!("; {left} keep the default for now"),
        };
        let tuned = counted(self.tuned, "product");
        let seconds = self.begun.elapsed().as_secs_f64();
        let place = match self.unwritten {
            None => format!("see {}", self.plan.file.display()),
            Some(_) => format!("not all of them in {}", self.plan.file.display()),
        };
        line(format_args!("{tuned} tuned in {seconds:.1} s, {place}{left}"));
    }

    /// What was found, and for problems that had a result before, that.
    pub(crate) fn table(&mut self, problems: &[GemmProblem], device: &mut dyn GemmDevice) -> &Table {
        let mut table = Table::default();
        for problem in problems {
            let found = self.table.rows().find(|row| row.problem == *problem);
            let known = self.tuner.store().results().get(problem);
            let row = found.cloned().or_else(|| Some(Row::known(*problem, known?)));
            if let Some(row) = row {
                table.push(row.with_floor(device.floor_seconds(problem)));
            }
        }
        self.table = table;
        &self.table
    }
}

/// Makes the file ready; returns why it cannot be written.
fn prepare_to_write(store: &mut Store) -> Option<String> {
    match store.prepare_to_write() {
        Ok(None) => None,
        Ok(Some(aside)) => {
            line(format_args!("the file that does not apply is now {}", aside.display()));
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Puts PyTorch's results into our file and hands them to the device. Returns why some are not in the file.
fn take_over(
    path: &std::path::Path,
    store: &mut Store,
    info: &DeviceInfo,
    device: &mut dyn GemmDevice,
) -> Result<Option<String>> {
    let (results, notes) = import(path, device, info.kind).context("--import-tunableop")?;
    found::notes(path.display(), &notes);
    let over = octet_tune::take_over(&results, device);
    let mut unwritten = None;
    for (problem, tuned) in &over.taken {
        if let Kept::InMemory(Some(reason)) = store.insert(*problem, &tuned.solution, tuned.milliseconds) {
            unwritten = Some(reason);
        }
    }
    let taken = results.len() - over.left.len();
    line(format_args!("{taken} of {} in {} taken over", counted(results.len(), "result"), path.display()));
    found::notes(path.display(), &over.left);
    Ok(unwritten)
}

/// Lines about a search.
fn verbose(outcome: &Outcome, level: u8) -> String {
    let Outcome { problem, solution, seconds, default_seconds, .. } = outcome;
    let mut text = format!(
        "GEMM tuning: {problem}: {solution} {:.4} ms, default {:.4} ms\n",
        seconds * 1e3,
        default_seconds * 1e3
    );
    if level > 1 {
        for one in &outcome.all {
            let time =
                one.seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.4} ms", seconds * 1e3));
            let verdict = match &one.verdict {
                Verdict::Untried => "not tried, time was over".to_owned(),
                Verdict::Refused(reason) => format!("refused: {reason:?}"),
                Verdict::Dropped => "dropped in the first pass".to_owned(),
                Verdict::Measured => "measured".to_owned(),
            };
            text += &format!("GEMM tuning:   {} {time}, {verdict}\n", one.solution);
        }
    }
    text
}
