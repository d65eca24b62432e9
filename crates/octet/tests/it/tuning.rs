//! GEMM tuning as a user meets it: files in a folder, flags, variables and an interrupt.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::checkpoint::{Checkpoint, Folder};
use crate::program::{Ended, Server, command_in, finish, launch_in, signal};

const ENABLED: (&str, &str) = ("PYTORCH_TUNABLEOP_ENABLED", "1");
const NOT_TUNING: (&str, &str) = ("PYTORCH_TUNABLEOP_TUNING", "0");

/// A small model, and a folder to run in.
struct Place {
    model: Folder,
    work: Folder,
}

impl Place {
    fn new() -> Self {
        Self { model: Checkpoint::llama().write(), work: Folder::new() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        finish(command_in(self.work.path(), arguments, variables).spawn().expect("the program starts"))
    }

    fn latency(&self, options: &[&str], variables: &[(&str, &str)]) -> Ended {
        let model = self.model.path().to_str().expect("a path of the test is text");
        let mut arguments = vec!["bench", "latency", "--model", model, "--threads", "1"];
        arguments.extend(["--kv-cache-memory-bytes", "4M", "--input-len", "16", "--output-len", "6"]);
        arguments.extend(["--batch-size", "2", "--num-iters-warmup", "1", "--num-iters", "1"]);
        arguments.extend(options);
        let ended = self.run(&arguments, variables);
        assert!(ended.status.success(), "{}", ended.stderr);
        ended
    }

    fn tune(&self, options: &[&str]) -> Ended {
        let model = self.model.path().to_str().expect("a path of the test is text");
        let mut arguments = vec!["tune", "--threads", "1", "--kv-cache-memory-bytes", "4M"];
        if !options.contains(&"--from-untuned") {
            arguments.push(model);
        }
        arguments.extend(options);
        self.run(&arguments, &[])
    }
}

fn results(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.contains("TunableOp_")).map(str::to_owned).collect()
}

#[test]
fn a_benchmark_tunes_what_it_meets_and_the_next_one_uses_it() {
    let place = Place::new();
    let csv = place.file("tunableop_results0.csv");
    let first = place.latency(&[], &[ENABLED, ("PYTORCH_TUNABLEOP_ROCBLAS_ENABLED", "1")]);
    assert!(first.stderr.contains("PYTORCH_TUNABLEOP_ROCBLAS_ENABLED"), "{}", first.stderr);
    let written = fs::read_to_string(&csv).unwrap();
    for key in ["OCTET_VERSION", "DEVICE_NAME", "DEVICE_ARCHITECTURE", "DEVICE_UNITS"] {
        assert!(written.contains(&format!("Validator,{key},")), "{written}");
    }
    // Two prompts of 16 tokens, then two tokens a step; logits of two rows.
    let lines = results(&csv);
    for tokens in [2, 32] {
        assert!(lines.iter().any(|line| line.contains(&format!("TN,tn_128_{tokens}_64_"))), "{written}");
    }
    assert!(lines.iter().all(|line| line.split(',').count() == 4), "{written}");
    let second = place.latency(&[], &[ENABLED, NOT_TUNING]);
    let found = format!("{} results: {} in use", lines.len(), lines.len());
    assert!(second.stderr.contains(&found), "{}", second.stderr);
    let third = place.latency(&["--gemm-tuning", "tune"], &[]);
    assert!(!third.stderr.contains("tuned in"), "nothing was left to tune: {}", third.stderr);
    assert_eq!(fs::read_to_string(&csv).unwrap(), written, "later runs do not change the file");
    let off = place.latency(&["--gemm-tuning", "off"], &[ENABLED]);
    assert!(!off.stderr.contains("GEMM tuning"), "{}", off.stderr);
}

#[test]
fn files_that_do_not_apply_are_said_so_and_set_aside_only_by_tuning() {
    let place = Place::new();
    let csv = place.file("tunableop_results0.csv");
    let foreign = "Validator,OCTET_VERSION,0.0.1\nValidator,DEVICE_KIND,cpu\n\
                   GemmTunableOp_BFloat16_TN,tn_8_1_8,Default,0.1\n";
    fs::write(&csv, foreign).unwrap();
    let used = place.latency(&[], &[]).stderr;
    for word in
        ["GEMM tuning: ", "does not apply", "1 result", "OCTET_VERSION", "0.0.1", env!("CARGO_PKG_VERSION")]
    {
        assert!(used.contains(word), "{word} is missing: {used}");
    }
    assert_eq!(fs::read_to_string(&csv).unwrap(), foreign);
    place.latency(&["--gemm-tuning", "tune"], &[]);
    assert_eq!(fs::read_to_string(place.file("tunableop_results0.csv.rejected")).unwrap(), foreign);
    assert!(!results(&csv).is_empty());
    // Lines that are wrong, and a solution that nobody knows.
    let good = fs::read_to_string(&csv).unwrap();
    let unknown = results(&csv)[0].replace("TN,tn_", "TN,tn_7");
    fs::write(&csv, format!("{good}nonsense\nGemmTunableOp_Half_TN,tn_0_1_1,Default,1\n{unknown}\nGemm"))
        .unwrap();
    let said = place.latency(&[], &[]).stderr;
    let count = good.lines().count();
    for line in [count + 1, count + 2, count + 4] {
        assert!(said.contains(&format!("line {line}: ")), "{line}: {said}");
    }
    assert!(said.contains("1 for other products"), "{said}");
}

#[test]
fn a_folder_that_cannot_be_written_is_no_obstacle() {
    let place = Place::new();
    let missing = place.file("missing/results.csv");
    let missing = missing.to_str().expect("a path of the test is text");
    let ended = place.latency(&["--gemm-tuning", "tune", "--gemm-tuning-file", missing], &[]);
    assert!(ended.stderr.contains("cannot be written"), "{}", ended.stderr);
    assert!(ended.stdout.contains("Avg latency: "), "{}", ended.stdout);
    let is_a_folder = place.work.path().to_str().expect("a path of the test is text").to_owned() + "/%d";
    fs::create_dir(place.file("0")).unwrap();
    let ended = place.latency(&["--gemm-tuning-file", &is_a_folder], &[]);
    assert!(ended.stderr.contains("cannot be read"), "{}", ended.stderr);
}

#[test]
fn results_that_cannot_be_kept_are_an_error() {
    let place = Place::new();
    fs::write(place.file("file"), "").unwrap();
    let nowhere = place.file("file/results.csv");
    let nowhere = nowhere.to_str().expect("a path of the test is text");
    let ended = place.tune(&["--batch-size", "1", "--gemm-tuning-file", nowhere]);
    assert!(!ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("results0.csv cannot be written"), "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing was tuned"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("tuned in"), "{}", ended.stderr);

    let model = place.model.path().to_str().expect("a path of the test is text");
    let variable = [("PYTORCH_TUNABLEOP_UNTUNED_FILENAME", nowhere)];
    let ended =
        place.run(&["tune", model, "--threads", "1", "--batch-size", "1", "--record-untuned"], &variable);
    assert!(!ended.status.success() && ended.stderr.contains("no product is recorded"), "{}", ended.stderr);
}

/// A limit to the length of files is a disk that is full after a few results.
#[test]
fn a_full_disk_ends_tuning_and_keeps_what_is_there() {
    let place = Place::new();
    let csv = place.file("tunableop_results0.csv");
    let limited = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_octet");
    let model = place.model.path().to_str().expect("a path of the test is text");
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        limited,
        "sh",
        program,
        "tune",
        model,
        "--threads",
        "1",
        "--kv-cache-memory-bytes",
        "4M",
    ]);
    command.current_dir(place.work.path()).stdin(std::process::Stdio::null());
    let ended = finish(
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap(),
    );
    assert!(!ended.status.success(), "{}", ended.stderr);
    let kept = results(&csv).len();
    assert!(kept > 0, "{}", fs::read_to_string(&csv).unwrap());
    assert!(ended.stderr.contains("is lost, "), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("{kept} result")), "{}", ended.stderr);
    assert!(fs::read_to_string(&csv).unwrap().ends_with('\n'), "no half line is left");
    assert!(ended.stdout.contains("product"), "what was found is shown: {}", ended.stdout);
}

#[test]
fn a_server_says_once_that_it_cannot_keep_results() {
    let place = Place::new();
    fs::write(place.file("file"), "").unwrap();
    let nowhere = place.file("file/results.csv");
    let nowhere = nowhere.to_str().expect("a path of the test is text");
    let server = launch_in(
        place.work.path(),
        place.model.path(),
        &["--gemm-tuning", "background", "--gemm-tuning-file", nowhere, "--max-num-seqs", "2"],
    );
    let before = server.said_at_start.matches("cannot be written").count();
    thread::sleep(Duration::from_secs(2));
    let (_, after) = server.stop();
    assert_eq!((before, after.iter().filter(|line| line.contains("cannot be written")).count()), (1, 0));
}

#[test]
fn wrong_values_are_refused_by_name() {
    let place = Place::new();
    let model = place.model.path().to_str().expect("a path of the test is text");
    let variable = ("PYTORCH_TUNABLEOP_MAX_TUNING_ITERATIONS", "many");
    let ended = place.run(&["bench", "latency", "--model", model], &[variable]);
    assert!(!ended.status.success() && ended.stderr.contains(variable.0), "{}", ended.stderr);
    let pytorch = place.file("pytorch.csv");
    fs::write(&pytorch, "Validator,PT_VERSION,2.5.0\nValidator,HIPBLASLT_VERSION,0.10\n").unwrap();
    let pytorch = pytorch.to_str().expect("a path of the test is text");
    let ended = place.tune(&["--batch-size", "1", "--import-tunableop", pytorch]);
    assert!(!ended.status.success() && ended.stderr.contains("HIPBLASLT_VERSION 0.10"), "{}", ended.stderr);
    let ended = place.run(&["bench", "latency", "--model", model, "--gemm-tuning", "background"], &[]);
    assert!(!ended.status.success() && ended.stderr.contains("idle time"), "{}", ended.stderr);
}

#[test]
fn problems_are_recorded_and_tuned_later_without_the_model() {
    let place = Place::new();
    let recording = ("PYTORCH_TUNABLEOP_RECORD_UNTUNED", "1");
    place.latency(&[], &[ENABLED, NOT_TUNING, recording]);
    let untuned = place.file("tunableop_untuned0.csv");
    let recorded = results(&untuned);
    assert!(recorded.len() > 4 && !place.file("tunableop_results0.csv").exists(), "{recorded:?}");
    let ended = place.tune(&["--from-untuned", untuned.to_str().expect("text")]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("product") && ended.stdout.contains("of floor"), "{}", ended.stdout);
    assert_eq!(ended.stdout.lines().count(), recorded.len() + 1, "{}", ended.stdout);
    let used = place.latency(&[], &[ENABLED, NOT_TUNING, recording]).stderr;
    assert!(used.contains(&format!("{} in use", recorded.len())), "{used}");
    assert_eq!(results(&untuned), recorded, "what has a result is not recorded");
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_loses_nothing() {
    let place = Place::new();
    let csv = place.file("tunableop_results0.csv");
    let model = place.model.path().to_str().expect("a path of the test is text");
    let arguments = ["tune", model, "--threads", "1", "--kv-cache-memory-bytes", "4M"];
    let child = command_in(place.work.path(), &arguments, &[]).spawn().expect("the program starts");
    let begun = Instant::now();
    while results(&csv).len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not tune");
        thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "INT");
    let ended = finish(child);
    assert!(!ended.status.success() && ended.stderr.contains("interrupted"), "{}", ended.stderr);
    let kept = results(&csv);
    assert!(kept.len() >= 3 && ended.stdout.lines().count() == kept.len() + 1, "{}", ended.stdout);
    // The same command goes on.
    let ended = place.tune(&["--max-num-seqs", "4", "--max-num-batched-tokens", "16"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(results(&csv)[..kept.len()], kept[..]);
    assert!(results(&csv).len() > kept.len());
}

#[test]
fn a_server_tunes_before_it_is_ready_or_when_it_is_idle() {
    let place = Place::new();
    let csv = place.file("tunableop_results0.csv");
    let small = ["--max-num-seqs", "2", "--max-num-batched-tokens", "16"];
    let tuning = [&small[..], &["--gemm-tuning", "tune", "--gemm-tuning-budget", "2s"]].concat();
    drop(launch_in(place.work.path(), place.model.path(), &tuning));
    let first = results(&csv).len();
    assert!(first > 0);
    fs::remove_file(&csv).unwrap();
    let background = [&small[..], &["--gemm-tuning", "background"]].concat();
    let server: Server = launch_in(place.work.path(), place.model.path(), &background);
    let begun = Instant::now();
    while results(&csv).len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not tune");
        thread::sleep(Duration::from_millis(20));
    }
    // It serves meanwhile.
    let body = json!({"model": place.model.path(), "prompt": "ab", "max_tokens": 4, "temperature": 0});
    assert_eq!(server.post("/v1/completions", &body).0, 200);
}
