//! A log that nobody takes: the server goes on as if it were read, and ends when it is asked to.

use std::fs::{File, OpenOptions};
use std::io::PipeReader;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::program::Server;

/// What a pipe holds on Linux, unless said otherwise.
const PIPE_BYTES: &str = "65536";

/// Requests of a test: each says a line.
const REQUESTS: usize = 20;

/// Starts a server whose standard error was changed, uses it, and stops it.
#[track_caller]
fn expect_service(change: impl FnOnce(&mut Command)) {
    let folder = Checkpoint::llama().write();
    let server = Server::launch_unheard(folder.path(), &["--served-model-name", "tiny"], change);
    for _ in 0..REQUESTS {
        let body = json!({"model": "tiny", "prompt": "ab", "max_tokens": 4, "temperature": 0});
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(server.request("GET", "/health", b"").0, 200);
    }
    assert!(server.metric("octet:log_lines_lost_total") >= 0.0);
    let (status, _) = server.stop();
    assert!(status.success(), "{status}");
}

/// A pipe that is full, and its reader, which must live as long as it shall stay so.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let output = writer.try_clone().expect("a descriptor");
    let filled = Command::new("head").args(["-c", PIPE_BYTES, "/dev/zero"]).stdout(output).status();
    assert!(filled.expect("head is everywhere").success());
    (reader, writer.into())
}

fn full_device() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has /dev/full")
}

#[test]
fn a_full_disk_under_the_log() {
    expect_service(|command| {
        command.stderr(full_device()).stdout(full_device());
    });
}

#[test]
fn a_pipe_that_nobody_drains() {
    let (reader, writer) = full_pipe();
    expect_service(|command| {
        command.stderr(writer);
    });
    drop(reader);
}

#[test]
fn a_pipe_whose_reader_is_gone() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    expect_service(|command| {
        command.stderr(writer);
    });
}

#[test]
fn a_closed_standard_error() {
    expect_service(|command| {
        let program = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" 2>&- >&-"]).arg(program).args(arguments);
        *command = shell;
    });
}
