//! How long and how many: bounds on connections, and on the descriptors that they need.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are left to everything but connections that come later: files that are opened for a moment, pipes,
/// libraries of a device.
const RESERVED_DESCRIPTORS: u64 = 24;

/// Descriptors of a process of which nothing else is known.
const USUAL_DESCRIPTORS: u64 = 64;

/// Bounds on what a connection may take. Whoever exceeds one is closed; nobody else notices.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Most connections at a time. At the limit an idle one makes room; where none is idle, the newcomer gets 503.
    pub max_connections: usize,
    /// Time for the head of a request, from its first byte.
    pub head: Duration,
    /// Time for the body of a request; each 4 KiB that come are worth a second more.
    pub body: Duration,
    /// How long a connection may stay open without a request.
    pub keep_alive: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write: Duration,
    /// A stream that is silent for so long sends a comment, so that proxies and clients do not take it for dead.
    pub heartbeat: Duration,
    /// Largest head of a request, bytes.
    pub max_head_bytes: usize,
    /// Most header fields of a request.
    pub max_head_fields: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            // Longer than proxies keep connections (60 s is usual), so that none is closed under a request.
            keep_alive: Duration::from_secs(75),
            write: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            max_head_bytes: 128 << 10,
            max_head_fields: 256,
        }
    }
}

impl ConnectionLimits {
    /// Raises the process' limit of descriptors as far as it may be, and lowers the number of connections to what is
    /// left then.
    pub(crate) fn within_descriptors(mut self) -> Self {
        let Some(limit) = raise_descriptor_limit() else { return self };
        let used = used_descriptors().unwrap_or(USUAL_DESCRIPTORS);
        let free = limit.saturating_sub(used + RESERVED_DESCRIPTORS).max(1);
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        if free < self.max_connections {
            let wanted = self.max_connections;
            tracing::warn!(
                "{limit} file descriptors allow {free} connections at a time, not {wanted}; raise the limit with \
                 ulimit -n, or LimitNOFILE= of systemd"
            );
            self.max_connections = free;
        }
        self
    }
}

/// The limit after it was raised; `None` stands for no limit.
fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of file descriptors stays as it is");
            current
        }
    }
}

/// Descriptors in use; `None` on systems that do not tell.
fn used_descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    u64::try_from(entries.count()).ok()
}
