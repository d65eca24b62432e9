//! The program on a simulated GPU, and on a machine that has none.

use serde_json::json;

use crate::checkpoint::Checkpoint;
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
fn a_server_on_a_simulated_gpu_answers() {
    for architecture in ["gfx942", "gfx1100"] {
        let variables = simulated(architecture);
        let folder = Checkpoint::llama().write();
        let options = ["--device", "hip", "--kv-cache-dtype", "fp8", "--served-model-name", "tiny"];
        let server = Server::start_with(folder.path(), &options, &borrowed(&variables));
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
fn a_kernel_that_never_ends_ends_the_process_with_a_report() {
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
    assert_eq!(server.request("GET", "/health", b"").0, 503);
    assert_eq!(server.post("/v1/completions", &body).0, 503);
    let (status, said) = server.ended();
    assert_eq!(status.code(), Some(1), "{said:?}");
    let last = said.last().expect("it said why");
    for part in ["did not finish within 10 s", "gfx1100", "at step 3 with 1 rows of 1 sequences"] {
        assert!(last.contains(part), "{part} in {last}");
    }
}
