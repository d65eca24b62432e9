//! Memory of the host: how much there is, and vectors that fail politely.

use octet_backend::{BackendError, DeviceMemory};

/// A vector of `elements` copies of `value`, or the error that says what did not fit.
pub(crate) fn filled(
    what: &'static str,
    elements: Option<usize>,
    value: f32,
) -> Result<Vec<f32>, BackendError> {
    let requested_bytes = elements.and_then(|elements| elements.checked_mul(size_of::<f32>()));
    let out_of_memory =
        || BackendError::OutOfMemory { what, requested_bytes: requested_bytes.unwrap_or(usize::MAX) };
    let elements = elements.ok_or_else(out_of_memory)?;
    let mut values = Vec::new();
    values.try_reserve_exact(elements).map_err(|_| out_of_memory())?;
    values.resize(elements, value);
    Ok(values)
}

/// What the kernel says about the whole machine; zeros where there is no `/proc/meminfo`.
pub(crate) fn of_machine() -> DeviceMemory {
    parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn parse(meminfo: &str) -> DeviceMemory {
    let bytes_of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        kibibytes.unwrap_or(0).saturating_mul(1024)
    };
    DeviceMemory { total_bytes: bytes_of("MemTotal:"), free_bytes: bytes_of("MemAvailable:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let memory = parse("MemTotal:       24576 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\n");
        assert_eq!(memory, DeviceMemory { total_bytes: 24576 * 1024, free_bytes: 1024 * 1024 });
        assert_eq!(parse(""), DeviceMemory { total_bytes: 0, free_bytes: 0 });
    }

    #[test]
    fn impossible_requests_are_refused() {
        let error = filled("a tensor", Some(usize::MAX / 8), 0.0).unwrap_err();
        assert_eq!(
            error,
            BackendError::OutOfMemory { what: "a tensor", requested_bytes: usize::MAX / 8 * 4 }
        );
        assert!(filled("a tensor", None, 0.0).is_err());
        assert_eq!(filled("a tensor", Some(2), 1.5).unwrap(), [1.5, 1.5]);
    }
}
