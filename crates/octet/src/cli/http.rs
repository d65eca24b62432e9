//! Flags of `octet serve` about connections and the log: where it listens, what a connection may take, what is logged.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use octet_server::{ConnectionLimits, ServerConfig};

use super::{parse_bytes, parse_count};

/// vLLM's variable for what `--timeout-keep-alive` says.
const KEEP_ALIVE_VARIABLE: &str = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE";

/// Connections and log lines.
#[derive(Args, Debug)]
pub(crate) struct HttpArgs {
    /// Listen at a Unix socket instead of a port.
    #[arg(long, value_name = "PATH", help_heading = "Server")]
    uds: Option<String>,
    /// A prefix that a proxy leaves before all paths, such as /llm; requests may come with it or without.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = parse_prefix, value_name = "PATH", help_heading = "Server")]
    root_path: String,
    /// Most connections at a time: at the limit idle ones make room, then newcomers get 503. File descriptors may set a
    /// lower one.
    #[arg(long, default_value_t = ConnectionLimits::default().max_connections, value_parser = parse_count, value_name = "COUNT", help_heading = "Server")]
    max_connections: usize,
    /// Seconds that a connection may stay open between requests; 75 unless VLLM_HTTP_TIMEOUT_KEEP_ALIVE says otherwise.
    #[arg(long, value_name = "SECONDS", help_heading = "Server")]
    timeout_keep_alive: Option<u64>,
    /// Largest head of a request (its line and header fields).
    #[arg(long = "h11-max-incomplete-event-size", default_value = "128K", value_parser = parse_bytes, value_name = "BYTES", help_heading = "Server")]
    max_head_bytes: usize,
    /// Most header fields of a request.
    #[arg(long = "h11-max-header-count", default_value_t = ConnectionLimits::default().max_head_fields, value_parser = parse_count, value_name = "COUNT", help_heading = "Server")]
    max_head_fields: usize,
    /// Log no line for each request.
    #[arg(long, alias = "disable-uvicorn-access-log", help_heading = "Server")]
    disable_access_log: bool,
    /// Log no line for requests to these paths, such as /health,/metrics.
    #[arg(long, value_delimiter = ',', value_name = "PATHS", help_heading = "Server")]
    disable_access_log_for_endpoints: Vec<String>,
    /// The level from which the web server's lines are logged; a line for each request is of level info.
    #[arg(long, value_enum, default_value = "info", value_name = "LEVEL", help_heading = "Server")]
    uvicorn_log_level: WebLevel,
    /// Log the parameters of each request when it comes; its prompt too, where OCTET_LOG is debug.
    #[arg(long, help_heading = "Server")]
    enable_log_requests: bool,
    /// Characters of a prompt that are logged; all by default.
    #[arg(long, value_name = "COUNT", help_heading = "Server")]
    max_log_len: Option<usize>,
    /// Refused by name: vLLM's flags about TLS.
    #[arg(
        long = "ssl-keyfile",
        aliases = ["ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers", "enable-ssl-refresh"],
        num_args = 0..=1,
        default_missing_value = "",
        value_parser = refuse_tls,
        hide = true
    )]
    tls: Option<String>,
}

/// Uvicorn's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum WebLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl HttpArgs {
    /// Puts what was asked for into a configuration.
    ///
    /// # Errors
    /// A variable that cannot be read.
    pub(crate) fn apply(&self, config: &mut ServerConfig) -> Result<()> {
        // A path that is not said is no path: `--uds ""` of a script whose variable is unset.
        config.unix_socket = self.uds.as_deref().filter(|path| !path.is_empty()).map(PathBuf::from);
        config.root_path.clone_from(&self.root_path);
        config.access_log = !self.disable_access_log && self.uvicorn_log_level <= WebLevel::Info;
        config.quiet_paths.clone_from(&self.disable_access_log_for_endpoints);
        config.request_log = self.enable_log_requests;
        config.max_logged_prompt = self.max_log_len;
        let limits = &mut config.connections;
        limits.max_connections = self.max_connections;
        limits.max_head_bytes = self.max_head_bytes;
        limits.max_head_fields = self.max_head_fields;
        let variable = std::env::var(KEEP_ALIVE_VARIABLE).unwrap_or_default();
        limits.keep_alive = keep_alive(self.timeout_keep_alive, &variable)?.unwrap_or(limits.keep_alive);
        Ok(())
    }
}

/// What the flag says, else the variable.
fn keep_alive(flag: Option<u64>, variable: &str) -> Result<Option<Duration>> {
    if flag.is_some() || variable.is_empty() {
        return Ok(flag.map(Duration::from_secs));
    }
    let seconds = variable
        .parse()
        .with_context(|| format!("{KEEP_ALIVE_VARIABLE} is {variable:?}, expected a number of seconds"))?;
    Ok(Some(Duration::from_secs(seconds)))
}

/// A server that was meant to be encrypted must not come up in the clear.
fn refuse_tls(_: &str) -> Result<String, String> {
    Err("the --ssl flags are not obeyed: Octet speaks plain HTTP; let a proxy (nginx, Caddy, Envoy) end TLS and pass \
         requests on, best to --uds or --host 127.0.0.1"
        .to_owned())
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let is_path = text.chars().all(|character| character.is_ascii_graphic() && !"?#".contains(character));
    if text.is_empty() || (text.starts_with('/') && is_path) {
        Ok(text.to_owned())
    } else {
        Err("must be a path that begins with a slash, such as /llm".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        http: HttpArgs,
    }

    fn config(typed: &[&str]) -> ServerConfig {
        let mut config = ServerConfig::default();
        Only::parse_from([&["octet"], typed].concat()).http.apply(&mut config).unwrap();
        config
    }

    #[test]
    fn levels_above_info_log_no_requests() {
        assert!(config(&[]).access_log);
        assert!(config(&["--uvicorn-log-level", "debug"]).access_log);
        assert!(!config(&["--uvicorn-log-level", "warning"]).access_log);
        assert!(!config(&["--disable-uvicorn-access-log"]).access_log);
        let quiet = config(&["--disable-access-log-for-endpoints", "/health,/metrics"]).quiet_paths;
        assert_eq!(quiet, ["/health", "/metrics"]);
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_an_empty_variable_is_none() {
        assert_eq!(keep_alive(Some(3), "7").unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(keep_alive(None, "7").unwrap(), Some(Duration::from_secs(7)));
        assert_eq!(keep_alive(None, "").unwrap(), None);
        let message = keep_alive(None, "long").unwrap_err().to_string();
        assert!(message.contains("VLLM_HTTP_TIMEOUT_KEEP_ALIVE is \"long\""), "{message}");
        assert_eq!(config(&["--uds", ""]).unix_socket, None);
    }

    #[test]
    fn tls_is_refused_with_a_way_out() {
        for typed in [&["--ssl-certfile", "c.pem"][..], &["--enable-ssl-refresh"], &["--ssl-cert-reqs=0"]] {
            let refused = Only::try_parse_from([&["octet"], typed].concat());
            let message = refused.err().expect("it is refused").to_string();
            assert!(message.contains("let a proxy"), "{message}");
        }
    }

    #[test]
    fn a_prefix_is_a_path() {
        assert!(parse_prefix("/llm/v2").is_ok() && parse_prefix("").is_ok());
        assert!(parse_prefix("llm").is_err() && parse_prefix("/a?b").is_err());
    }
}
