//! The program as its users meet it: a process with flags, output and a port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a process on a busy machine may need to start or to stop. Long, because it only matters when a test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often something that cannot be waited for is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Options that keep a test's server small, and independent of what else runs.
const SMALL: [&str; 8] =
    ["--host", "127.0.0.1", "--port", "0", "--threads", "1", "--kv-cache-memory-bytes", "4M"];

/// A copy of the program, with nothing beside it. Another process writes it: a file that this one has open for writing
/// could not be run while a test in another thread starts a process of its own.
pub(crate) fn copy_of_program(folder: &Path) -> PathBuf {
    let copy = folder.join("copied");
    let status = Command::new("cp").arg(env!("CARGO_BIN_EXE_octet")).arg(&copy).status();
    assert!(status.is_ok_and(|status| status.success()), "the program could not be copied");
    copy
}

/// A server that is not started yet.
pub(crate) fn serve(model: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    // What a test asks for itself replaces the default, and threads are the CPU's only.
    let names_device = options.contains(&"--device");
    let is_wanted = |name: &str| !(options.contains(&name) || names_device && name == "--threads");
    let defaults = SMALL.chunks_exact(2).filter(|pair| is_wanted(pair[0])).flatten();
    command.arg("serve").arg(model).args(defaults).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Sends a signal, by the shell's own `kill`: small systems have no program of that name.
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("there is a shell").success());
}

/// Serves the model inside a copy of the program, far from where it was built.
pub(crate) fn serve_shipped(program: &Path, cache_folder: &Path) -> Server {
    let mut command = Command::new(program);
    command.arg("serve").args(SMALL).current_dir("/").env("XDG_CACHE_HOME", cache_folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Server::launch(&mut command)
}

/// The program with arguments and variables in a folder, its output to be read.
pub(crate) fn command_in(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    command.args(arguments).current_dir(folder).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Serves a model from a folder, where it finds and leaves files.
pub(crate) fn launch_in(folder: &Path, model: &Path, options: &[&str]) -> Server {
    Server::launch(serve(model, options).current_dir(folder))
}

/// Waits for the end of a process; one that does not end is killed, and the test fails.
fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().expect("a child can be killed");
            panic!("the program did not end");
        }
        thread::sleep(GLANCE);
    }
}

/// How a process ended, and what it wrote.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Waits for the end of a process that writes text.
pub(crate) fn finish(mut child: Child) -> Ended {
    let read = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut stream) = stream {
                stream.read_to_string(&mut text).expect("the program writes text");
            }
            text
        })
    };
    let stdout = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let status = wait(&mut child);
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("the reader does not panic"));
    Ended { status, stdout, stderr }
}

/// The program with arguments, not yet started; what it writes is kept.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn end_of(command: &mut Command) -> Ended {
    finish(command.spawn().expect("the program that was built starts"))
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    end_of(&mut program(arguments))
}

/// Serves a model that must be refused, and returns what the program said.
pub(crate) fn refusal(model: &Path, options: &[&str]) -> String {
    let ended = finish(serve(model, options).spawn().expect("the program that was built starts"));
    let said = ended.stderr;
    assert_eq!(ended.status.code(), Some(1), "a refusal is not a crash:\n{said}");
    said
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Lines of standard error, as they come; in a lock so that many clients can share the server.
    lines: Mutex<Receiver<String>>,
    /// What it said before it served.
    pub(crate) said_at_start: String,
}

impl Server {
    /// Starts a server and waits until it says where it listens.
    pub(crate) fn start(model: &Path, options: &[&str]) -> Self {
        Self::launch(&mut serve(model, options))
    }

    /// The same with these variables.
    pub(crate) fn start_with(model: &Path, options: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::launch(serve(model, options).envs(variables.iter().copied()))
    }

    fn launch(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program that was built starts");
        let stderr = BufReader::new(child.stderr.take().expect("standard error is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut said = String::new();
        loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server did not start:\n{said}");
            };
            if let Some(address) = address_in(&line) {
                return Self { child, address, lines: Mutex::new(lines), said_at_start: said };
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// Starts a server whose standard error is not ours to read, on a port that is free now, and waits until it answers.
    pub(crate) fn launch_unheard(model: &Path, options: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = free.local_addr().expect("a listener has an address");
        drop(free);
        let port = address.port().to_string();
        let mut command = serve(model, &[options, &["--port", &port]].concat());
        change(&mut command);
        let child = command.spawn().expect("the program that was built starts");
        let (_, lines) = mpsc::channel();
        let server = Self { child, address, lines: Mutex::new(lines), said_at_start: String::new() };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the server does not listen");
            thread::sleep(GLANCE);
        }
        server
    }

    /// An open connection.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("the server accepts connections")
    }

    /// The next line of standard error that `is_meant`.
    pub(crate) fn line(&self, is_meant: impl Fn(&str) -> bool) -> String {
        let lines = self.lines.lock().expect("no reader panics");
        let mut passed = String::new();
        loop {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no such line in:\n{passed}"));
            if is_meant(&line) {
                return line;
            }
            passed.push_str(&line);
            passed.push('\n');
        }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Seconds of processor time that the server has used.
    #[cfg(target_os = "linux")]
    pub(crate) fn processor_seconds(&self) -> f64 {
        /// `USER_HZ`, which is 100 on every architecture that Linux runs on.
        const TICKS_PER_SECOND: f64 = 100.0;
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("the server runs");
        // The name in parentheses may hold spaces. After it, user and system time are fields 12 and 13 (proc(5)).
        let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("ticks"));
        ticks.sum::<f64>() / TICKS_PER_SECOND
    }

    /// A connection that has sent a request and not read the answer.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the server accepts connections");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).expect("the server reads requests");
        stream
    }

    /// Status and body of an answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut answer = Vec::new();
        self.send(method, path, body).read_to_end(&mut answer).expect("the server answers");
        parse(&answer)
    }

    /// Status and JSON of an answer to a POST.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.request("POST", path, body.to_string().as_bytes());
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (status, json)
    }

    /// The value of a metric without regard to its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.request("GET", "/metrics", b"");
        assert_eq!(status, 200, "{text}");
        let of_metric =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = text.lines().filter(of_metric).map(|line| {
            let value = line.rsplit(' ').next().expect("a line has a last word");
            value.parse::<f64>().expect("a metric is a number")
        });
        values.reduce(|sum, value| sum + value).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// Waits until nothing runs, nothing waits and no block is taken.
    pub(crate) fn wait_until_idle(&self) {
        let begun = Instant::now();
        let busy = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
        while let Some(name) = busy.iter().find(|name| self.metric(name) != 0.0) {
            assert!(begun.elapsed() < PATIENCE, "{name} does not return to 0");
            thread::sleep(GLANCE);
        }
    }

    /// Asks the server to stop, as a service manager does, and returns how it ended and what it said last.
    pub(crate) fn stop(self) -> (ExitStatus, Vec<String>) {
        signal(&self.child, "TERM");
        self.ended()
    }

    /// Waits for the server's own end, and returns how it ended and what it said last.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = wait(&mut self.child);
        let lines = self.lines.lock().expect("no reader panics");
        (status, lines.try_iter().collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in `serving NAME at http://ADDRESS/v1 ...`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(" at http://")?;
    rest.split('/').next()?.parse().ok()
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, joined_chunks(body));
    }
    (status, body.to_owned())
}

fn joined_chunks(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk begins with its size");
        joined.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    joined
}

#[test]
fn chunks_are_joined() {
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(parse(answer), (200, "abcde".to_owned()));
    assert_eq!(address_in("serving x at http://127.0.0.1:81/v1 (ready)"), "127.0.0.1:81".parse().ok());
}
