//! Which CPUs the workers are bound to, as users write it.

use crate::CpuError;

/// How workers are bound to CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ThreadBinding {
    /// One worker on each physical core that this process may use.
    #[default]
    Auto,
    /// As many workers, on whatever CPUs the system puts them.
    Unbound,
    /// One worker on each of these CPUs.
    Cpus(Vec<usize>),
}

impl ThreadBinding {
    /// Reads the forms of vLLM's `VLLM_CPU_OMP_THREADS_BIND`: `auto`, `nobind`, or a list of CPUs such as `0-3,8`.
    ///
    /// # Errors
    /// Another form, a CPU named twice; a list for each of several ranks (`0-31|32-63`), for there is one.
    pub fn parse(text: &str) -> Result<Self, CpuError> {
        match text.trim() {
            "" | "auto" => return Ok(Self::Auto),
            "nobind" => return Ok(Self::Unbound),
            _ => {}
        }
        // All at once, so that a CPU that two ranks name is found as well.
        let all = text.split('|').map(str::trim).collect::<Vec<_>>().join(",");
        let cpus = parse_cpu_list(&all)
            .map_err(|reason| CpuError::BindingSyntax { text: text.to_owned(), reason })?;
        match text.matches('|').count() {
            0 => Ok(Self::Cpus(cpus)),
            bars => Err(CpuError::BindingRanks { text: text.to_owned(), ranks: bars + 1, all }),
        }
    }
}

/// Reads a list such as `0-3,8,10-11`, the form that Linux prints as well.
pub(crate) fn parse_cpu_list(list: &str) -> Result<Vec<usize>, String> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let number = |digits: &str| {
            let cpu = digits.trim().parse::<usize>().ok().filter(|&cpu| cpu < super::topology::MAX_CPUS);
            cpu.ok_or_else(|| format!("{part:?} is not a CPU number below {}", super::topology::MAX_CPUS))
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("the range {part:?} runs backwards"));
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return Err(format!("CPU {cpu} is named twice"));
            }
            cpus.push(cpu);
        }
    }
    Ok(cpus)
}

/// Writes a list in the same form.
pub(super) fn format_cpu_list(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_vllm_are_read() {
        assert_eq!(ThreadBinding::parse("auto").unwrap(), ThreadBinding::Auto);
        assert_eq!(ThreadBinding::parse(" ").unwrap(), ThreadBinding::Auto);
        assert_eq!(ThreadBinding::parse("nobind").unwrap(), ThreadBinding::Unbound);
        assert_eq!(ThreadBinding::parse("0-3").unwrap(), ThreadBinding::Cpus(vec![0, 1, 2, 3]));
        assert_eq!(ThreadBinding::parse("0,4-5, 8").unwrap(), ThreadBinding::Cpus(vec![0, 4, 5, 8]));
    }

    #[test]
    fn errors_name_the_part_that_is_wrong() {
        let error = |text| ThreadBinding::parse(text).unwrap_err().to_string();
        assert!(error("0-3,x").contains("\"x\" is not a CPU number"));
        assert!(error("7-4").contains("runs backwards"));
        assert!(error("0-3,2").contains("CPU 2 is named twice"));
        assert!(error("0-3|").contains("\"\" is not a CPU number"));
        assert!(error("0-99999999999").contains("is not a CPU number below"));
        assert!(error("all").contains("\"all\" is not a CPU number"));
    }

    #[test]
    fn cpus_of_several_ranks_are_not_half_used() {
        let error = ThreadBinding::parse("0-3|4-7").unwrap_err().to_string();
        assert!(error.contains("2 ranks") && error.contains("0-3,4-7"), "{error}");
    }

    #[test]
    fn lists_are_written_as_they_are_read() {
        for list in ["0", "0-3", "1,3-5,9"] {
            assert_eq!(format_cpu_list(&parse_cpu_list(list).unwrap()), list);
        }
    }
}
