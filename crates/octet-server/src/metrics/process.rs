//! What the operating system knows about this process, read at each scrape. Names are Prometheus' own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// The kernel counts CPU time for user space in these, on every architecture: `USER_HZ`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process' numbers to a registry.
pub(super) fn register(registry: &mut Registry, lost_log_lines: Arc<AtomicU64>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started_seconds = now.as_secs_f64();
    registry.register_collector(Box::new(ProcessCollector { started_seconds, lost_log_lines }));
}

#[derive(Debug)]
struct ProcessCollector {
    started_seconds: f64,
    lost_log_lines: Arc<AtomicU64>,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("process_start_time_seconds", "Start of the server, seconds since 1970", self.started_seconds)?;
        if let Some(bytes) = read("/proc/self/status").and_then(|status| resident_bytes(&status)) {
            gauge("process_resident_memory_bytes", "Resident memory", bytes)?;
        }
        if let Some(seconds) = read("/proc/self/stat").and_then(|stat| cpu_seconds(&stat)) {
            let help = "CPU time in user and system mode";
            let encoder =
                encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(encoder)?;
        }
        let help = "Log lines that were lost because nothing took them in time";
        let lost = ConstCounter::new(self.lost_log_lines.load(Ordering::Relaxed));
        lost.encode(encoder.encode_descriptor("octet:log_lines_lost", help, None, MetricType::Counter)?)
    }
}

/// Nothing where there is no such file: other systems than Linux.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// Fields 14 and 15 of proc(5)'s stat, counted after the name: it stands in parentheses and may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        let status = "Name:\ta\nVmHWM:\t  20 kB\nVmRSS:\t    12 kB\n";
        assert_eq!(resident_bytes(status), Some(12288.0));
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}
