//! OpenMetrics to Prometheus' older text format (0.0.4), which most scrapers and parsers still ask for.

/// The older format names a counter with its `_total` in HELP and TYPE too, knows no units and no end marker.
pub(super) fn to_prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // HELP comes before TYPE, which alone says whether the name is a counter's.
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').or(Some((rest, "")));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            let kind = if kind == "unknown" { "untyped" } else { kind };
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if line != "# EOF" && !line.starts_with("# UNIT ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_suffix_and_the_end_marker_goes() {
        let open_metrics = "# HELP vllm:a Some words.\n# TYPE vllm:a counter\nvllm:a_total{x=\"1\"} 3\n\
                            # HELP b_seconds Time.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n\
                            b_seconds_sum 1.0\n# EOF\n";
        let expected = "# HELP vllm:a_total Some words.\n# TYPE vllm:a_total counter\nvllm:a_total{x=\"1\"} 3\n\
                        # HELP b_seconds Time.\n# TYPE b_seconds histogram\nb_seconds_sum 1.0\n";
        assert_eq!(to_prometheus_text(open_metrics), expected);
    }
}
