//! The program on a simulated GPU, and on a machine that has none.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::checkpoint::{Checkpoint, Folder};
use crate::program::{Ended, Server, end_of, program, run};

/// Runs the program to its end with these variables.
fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    end_of(program(arguments).envs(variables.iter().copied()))
}

/// The simulator in HIP's place, with one device.
fn simulated(architecture: &str) -> [(&str, String); 2] {
    let library = octet_hipsim::library_path().expect("Cargo builds the simulator beside the test");
    [("OCTET_HIP_LIBRARY", library.display().to_string()), ("OCTET_HIPSIM_ARCH", architecture.to_owned())]
}

fn borrowed<'a>(variables: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn devices_are_listed_with_what_was_looked_for() {
    let listed = run(&["devices"]);
    assert!(listed.status.success(), "{}", listed.stderr);
    assert!(listed.stdout.contains("cpu: ") && listed.stdout.contains(" kernels"), "{}", listed.stdout);
    for (kind, library) in [("hip", "libamdhip64.so"), ("cuda", "libcuda.so")] {
        let is_there = listed.stdout.contains(&format!("{kind} 0: "));
        assert!(is_there || listed.stdout.contains(library), "{}", listed.stdout);
    }
    // The simulator is hipBLASLt too.
    let listed = run_with(&["devices"], &borrowed(&simulated("gfx942")));
    assert!(
        listed.stdout.contains("hipBLASLt from ") && listed.stdout.contains("gfx942"),
        "{}",
        listed.stdout
    );
}

#[test]
fn a_gpu_that_is_not_there_is_refused_with_the_places() {
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().expect("a path of the test is text");
    let nowhere = [("OCTET_HIP_LIBRARY", "/nowhere/libamdhip64.so")];
    let ended = run_with(&["serve", model, "--port", "0", "--device", "hip"], &nowhere);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("the HIP runtime was not found"), "{}", ended.stderr);
    assert!(ended.stderr.contains("/nowhere/libamdhip64.so: "), "{}", ended.stderr);
}

#[test]
fn threads_are_refused_on_a_gpu() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().expect("a path of the test is text");
    for device in ["hip", "auto"] {
        let arguments = ["serve", model, "--port", "0", "--device", device, "--threads", "3"];
        let ended = run_with(&arguments, &borrowed(&simulated("gfx942")));
        assert_eq!(ended.status.code(), Some(1));
        for part in ["--threads 3 is for the CPU", "--device cpu"] {
            assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        }
    }
}

#[test]
fn a_server_on_a_simulated_gpu_answers() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for architecture in ["gfx942", "gfx1100"] {
        let variables = simulated(architecture);
        let folder = Checkpoint::llama().write();
        // One is asked for by name, the other is found.
        let device = if architecture == "gfx942" { "hip" } else { "auto" };
        let options = ["--device", device, "--kv-cache-dtype", "fp8", "--served-model-name", "tiny"];
        let server = Server::start_with(folder.path(), &options, &borrowed(&variables));
        assert!(server.said_at_start.contains(architecture), "{}", server.said_at_start);
        let body =
            json!({"model": "tiny", "prompt": "ab", "max_tokens": 6, "temperature": 0, "ignore_eos": true});
        let (status, first) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{first}");
        assert_eq!(first["usage"]["completion_tokens"], 6, "{first}");
        // The second time steps are replayed and the prompt's blocks are known.
        let (status, second) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{second}");
        assert_eq!(first["choices"][0]["text"], second["choices"][0]["text"]);
        let (status, said) = server.stop();
        assert!(status.success(), "{said:?}");
    }
}

#[test]
fn the_selftest_passes_on_a_simulated_gpu_and_is_a_table() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let variables = simulated("gfx942");
    let ended = run_with(&["selftest", "--device", "hip"], &borrowed(&variables));
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("gfx942"), "{}", ended.stderr);
    for line in ["linear fp8_e4m3 in blocks [40, 512] x 384", "attention, cache fp8_e5m2, 20 rows after 700"]
    {
        assert!(ended.stdout.contains(line), "{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("WRONG"));
    assert!(ended.stdout.contains("simulated: its times mean nothing"), "{}", ended.stdout);
}

#[test]
fn a_simulated_gpu_is_benchmarked_without_claims() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let variables = simulated("gfx1100");
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().expect("a path of the test is text");
    let arguments = [
        "bench",
        "latency",
        "--model",
        model,
        "--device",
        "hip",
        "--kv-cache-memory-bytes",
        "4M",
        "--batch-size",
        "2",
        "--input-len",
        "5",
        "--output-len",
        "4",
        "--num-iters-warmup",
        "1",
        "--num-iters",
        "2",
    ];
    let ended = run_with(&arguments, &borrowed(&variables));
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("Avg latency: ") && ended.stdout.contains("is simulated"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("of the floor"), "{}", ended.stdout);
    assert!(ended.stderr.contains("self-test: weights in "), "{}", ended.stderr);
}

#[test]
fn a_kernel_that_never_ends_ends_the_process_with_a_report() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let folder = Checkpoint::llama().write();
    let mut variables = simulated("gfx1100").to_vec();
    // Some step of the first request; the self-test and the steps before it pass.
    variables.push(("OCTET_HIPSIM_HANG", "embed:3".to_owned()));
    let options = ["--device", "hip", "--served-model-name", "tiny", "--step-timeout", "10"];
    let server = Server::start_with(folder.path(), &options, &borrowed(&variables));
    let body =
        json!({"model": "tiny", "prompt": "ab", "max_tokens": 40, "temperature": 0, "ignore_eos": true});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 503, "{answer}");
    assert_eq!(server.request("GET", "/health", b"").0, 503, "after {answer}");
    assert_eq!(server.post("/v1/completions", &body).0, 503);
    let (status, said) = server.ended();
    assert_eq!(status.code(), Some(1), "{said:?}");
    let last = said.last().expect("it said why");
    for part in
        ["did not finish within 10 s", "gfx1100", "with 1 rows of 1 sequences, the longest of 4 tokens"]
    {
        assert!(last.contains(part), "{part} in {last}");
    }
}

/// Rows of a results file.
fn results(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.contains("TunableOp_")).map(str::to_owned).collect()
}

/// Little time and little memory for each solution: the simulator is slow.
const HASTE: [(&str, &str); 2] =
    [("PYTORCH_TUNABLEOP_MAX_TUNING_ITERATIONS", "1"), ("HIPBLASLT_WORKSPACE_SIZE", "1024")];

#[test]
fn a_model_is_tuned_on_a_simulated_gpu_and_its_results_are_used() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let device = simulated("gfx942");
    let variables = [&borrowed(&device)[..], &HASTE].concat();
    let (model, work) = (Checkpoint::llama().write(), Folder::new());
    let model = model.path().to_str().expect("a path of the test is text");
    let tune = |options: &[&str]| {
        let batch = ["--batch-size", "1", "--input-len", "20", "--output-len", "3"];
        let common = ["tune", model, "--device", "hip", "--dtype", "bfloat16"];
        let arguments = [&common[..], &batch, options].concat();
        let ended = end_of(program(&arguments).current_dir(work.path()).envs(variables.iter().copied()));
        assert!(ended.status.success(), "{}", ended.stderr);
        ended
    };
    let first = tune(&[]);
    let file = work.path().join("tunableop_results0.csv");
    let written = fs::read_to_string(&file).expect("results were written");
    for line in [
        "Validator,DEVICE_KIND,hip",
        "Validator,GCN_ARCH_NAME,gfx942:sramecc+:xnack-",
        "Validator,HIPBLASLT_VERSION,100100-hipsim",
        // Queries, keys and values of one token and of twenty, and the down projection, as 16 bits; the head's as 32.
        "GemmTunableOp_BFloat16_TN,tn_128_1_64",
        "GemmTunableOp_BFloat16_TN,tn_128_24_64",
        "GemmTunableOp_BFloat16_TN,tn_64_24_96",
        "GemmTunableOp_BFloat16_BFloat16_float_TN,tn_272_1_64",
    ] {
        assert!(written.contains(line), "{line}: {written}");
    }
    let lines = results(&file);
    assert_eq!(first.stdout.lines().count(), lines.len() + 1, "a row for each: {}", first.stdout);
    // The variables of the library are obeyed here, so that nobody is told otherwise.
    assert!(!first.stderr.contains("HIPBLASLT"), "{}", first.stderr);
    let again = tune(&[]);
    let found = format!("{} results: {} in use", lines.len(), lines.len());
    assert!(again.stderr.contains(&found), "{}", again.stderr);
    assert_eq!(results(&file), lines);
}

#[test]
fn a_server_on_a_simulated_gpu_tunes_first_and_then_answers() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let device = simulated("gfx942");
    let variables = [&borrowed(&device)[..], &HASTE].concat();
    let (model, work) = (Checkpoint::llama().write(), Folder::new());
    let file = work.path().join("tuned.csv");
    let name = file.to_str().expect("a path of the test is text");
    let mut options = vec!["--device", "hip", "--dtype", "bfloat16", "--served-model-name", "tiny"];
    options.extend(["--max-num-seqs", "2", "--max-num-batched-tokens", "24", "--gemm-tuning-file", name]);
    let body = json!({"model": "tiny", "prompt": "abcdefghijklmnopqrst", "max_tokens": 6, "temperature": 0});
    let answer = |further: &[&str]| {
        let server = Server::start_with(model.path(), &[&options[..], further].concat(), &variables);
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        assert!(server.stop().0.success());
        answer["choices"][0]["text"].clone()
    };
    let untuned = answer(&["--gemm-tuning", "off"]);
    assert!(!file.exists());
    let tuned = answer(&["--gemm-tuning", "tune", "--gemm-tuning-budget", "60s"]);
    // Five products, one of which differs by its output alone, for some ten sizes of batches.
    let lines = results(&work.path().join("tuned0.csv"));
    assert!(lines.len() > 20, "{lines:?}");
    assert_eq!(
        tuned, untuned,
        "tuning does not change what is said, as far as no two words are equally likely"
    );
    assert_eq!(answer(&["--gemm-tuning", "use"]), tuned);
}

#[test]
fn results_of_another_library_are_not_imported() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let device = simulated("gfx942");
    let (model, work) = (Checkpoint::llama().write(), Folder::new());
    let file = work.path().join("pytorch.csv");
    let text = "Validator,PT_VERSION,2.5.0\nValidator,GCN_ARCH_NAME,gfx942:sramecc+:xnack-\n\
                Validator,HIPBLASLT_VERSION,1.1.0-other\nGemmTunableOp_BFloat16_TN,tn_128_1_64,Gemm_Hipblaslt_TN_902,1\n";
    fs::write(&file, text).expect("a file in the test's folder");
    let mut arguments = vec!["tune", model.path().to_str().expect("text"), "--device", "hip"];
    arguments.extend(["--dtype", "bfloat16", "--batch-size", "1", "--import-tunableop"]);
    arguments.push(file.to_str().expect("text"));
    let variables = [&borrowed(&device)[..], &HASTE].concat();
    let ended = end_of(program(&arguments).current_dir(work.path()).envs(variables.iter().copied()));
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stderr.contains("1.1.0-other") && ended.stderr.contains("100100-hipsim"),
        "{}",
        ended.stderr
    );
}
