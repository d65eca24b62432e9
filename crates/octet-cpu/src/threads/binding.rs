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
    /// Reads the forms of vLLM's `VLLM_CPU_OMP_THREADS_BIND`: `auto`, `nobind`, or a list of CPUs for each rank,
    /// such as `0-31|32-63`; `rank` chooses.
    ///
    /// # Errors
    /// Another form, a CPU named twice, no list for the rank.
    pub fn parse(text: &str, rank: usize) -> Result<Self, CpuError> {
        match text.trim() {
            "" | "auto" => return Ok(Self::Auto),
            "nobind" => return Ok(Self::Unbound),
            _ => {}
        }
        let lists = text.split('|').map(|list| parse_cpu_list(list.trim())).collect::<Result<Vec<_>, _>>();
        let mut lists = lists.map_err(|reason| CpuError::BindingSyntax { text: text.to_owned(), reason })?;
        if rank >= lists.len() {
            return Err(CpuError::BindingRank { text: text.to_owned(), lists: lists.len(), rank });
        }
        Ok(Self::Cpus(lists.swap_remove(rank)))
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
        assert_eq!(ThreadBinding::parse("auto", 3).unwrap(), ThreadBinding::Auto);
        assert_eq!(ThreadBinding::parse("nobind", 0).unwrap(), ThreadBinding::Unbound);
        assert_eq!(ThreadBinding::parse("0-3", 0).unwrap(), ThreadBinding::Cpus(vec![0, 1, 2, 3]));
        assert_eq!(ThreadBinding::parse("0,4-5 | 8", 0).unwrap(), ThreadBinding::Cpus(vec![0, 4, 5]));
        assert_eq!(ThreadBinding::parse("0,4-5 | 8", 1).unwrap(), ThreadBinding::Cpus(vec![8]));
    }

    #[test]
    fn errors_name_the_part_that_is_wrong() {
        let error = |text, rank| ThreadBinding::parse(text, rank).unwrap_err().to_string();
        assert!(error("0-3,x", 0).contains("\"x\" is not a CPU number"));
        assert!(error("7-4", 0).contains("runs backwards"));
        assert!(error("0-3,2", 0).contains("CPU 2 is named twice"));
        assert!(error("0-3|", 0).contains("\"\" is not a CPU number"));
        assert!(error("0-99999999999", 0).contains("is not a CPU number below"));
        assert!(error("0-3|4-7", 2).contains("none for rank 2"));
    }

    #[test]
    fn lists_are_written_as_they_are_read() {
        for list in ["0", "0-3", "1,3-5,9"] {
            assert_eq!(format_cpu_list(&parse_cpu_list(list).unwrap()), list);
        }
    }
}
