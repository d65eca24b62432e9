//! Architectures that kernels are written for, and how they differ above the kernels.

use octet_float8::Float8Format;

use crate::GpuError;

/// What a device's kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// AMD, by the digits of its name read as hexadecimal: `gfx942` is `0x942`.
    Gfx(u32),
    /// NVIDIA, by its compute capability: 9.0 is 90.
    Sm(u32),
}

/// For messages.
const SUPPORTED: &str =
    "gfx90a, gfx942, gfx950, gfx1100, gfx1101, gfx1102, gfx1200, gfx1201, and sm_80 and newer";

impl Architecture {
    /// Reads `gfx942` or `sm_90`.
    ///
    /// # Errors
    /// There are no kernels for it.
    pub fn parse(name: &str) -> Result<Self, GpuError> {
        let unsupported = || GpuError::Architecture { architecture: name.to_owned(), supported: SUPPORTED };
        if let Some(digits) = name.strip_prefix("gfx") {
            let digits = u32::from_str_radix(digits, 16).map_err(|_| unsupported())?;
            return match digits {
                0x90a | 0x942 | 0x950 | 0x1100..=0x1102 | 0x1200 | 0x1201 => Ok(Self::Gfx(digits)),
                _ => Err(unsupported()),
            };
        }
        let capability =
            name.strip_prefix("sm_").and_then(|digits| digits.trim_end_matches('a').parse().ok());
        match capability {
            Some(capability) if capability >= 80 => Ok(Self::Sm(capability)),
            _ => Err(unsupported()),
        }
    }

    /// As its compiler calls it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Gfx(digits) => format!("gfx{digits:x}"),
            Self::Sm(capability) => format!("sm_{capability}"),
        }
    }

    /// Lanes of a wave.
    #[must_use]
    pub const fn wave(self) -> u32 {
        match self {
            Self::Gfx(0x90a | 0x942 | 0x950) => 64,
            Self::Gfx(_) | Self::Sm(_) => 32,
        }
    }

    /// Whether its FP8 is FNUZ: no negative zero, no infinities, every byte worth half.
    #[must_use]
    pub const fn is_fnuz(self) -> bool {
        matches!(self, Self::Gfx(0x942))
    }

    /// Whether its matrix units multiply E4M3 by E4M3.
    #[must_use]
    pub const fn multiplies_float8(self) -> bool {
        match self {
            Self::Gfx(digits) => matches!(digits, 0x942 | 0x950 | 0x1200 | 0x1201),
            Self::Sm(capability) => capability >= 89,
        }
    }

    /// The format in which it keeps what a checkpoint or a cache wants in `format`, and the factor on scales; nothing
    /// if it has no such format.
    #[must_use]
    pub const fn float8(self, format: Float8Format) -> Option<(Float8Format, f32)> {
        match (self.is_fnuz(), format.is_fnuz()) {
            (true, false) => Some((format.to_fnuz(), 2.0)),
            (true, true) | (false, false) => Some((format, 1.0)),
            (false, true) => None,
        }
    }

    /// What the kernels are told about it; both compilers take these.
    #[must_use]
    pub fn options(self) -> Vec<String> {
        match self {
            // The members of a family share instructions, and kernels name the family by its first.
            Self::Gfx(digits) => {
                let family = match digits {
                    0x1101 | 0x1102 => 0x1100,
                    other => other,
                };
                vec![
                    format!("--offload-arch={}", self.name()),
                    "-O3".to_owned(),
                    "-std=c++17".to_owned(),
                    format!("-DGFX=0x{family:x}"),
                    format!("-DWAVE={}", self.wave()),
                ]
            }
            Self::Sm(capability) => vec![
                format!("--gpu-architecture={}", self.name()),
                "--std=c++17".to_owned(),
                "--device-as-default-execution-space".to_owned(),
                "--diag-suppress=177".to_owned(),
                format!("-DSM={capability}"),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, wave, is_fnuz) in [
            ("gfx90a", 64, false),
            ("gfx942", 64, true),
            ("gfx950", 64, false),
            ("gfx1100", 32, false),
            ("gfx1201", 32, false),
            ("sm_90", 32, false),
        ] {
            let architecture = Architecture::parse(name).unwrap();
            assert_eq!(
                (architecture.name().as_str(), architecture.wave(), architecture.is_fnuz()),
                (name, wave, is_fnuz)
            );
        }
    }

    #[test]
    fn float8_is_multiplied_where_there_is_an_instruction() {
        let found = ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201", "sm_80", "sm_89", "sm_90"]
            .map(|name| Architecture::parse(name).unwrap().multiplies_float8());
        assert_eq!(found, [false, true, true, false, true, false, true, true]);
    }

    #[test]
    fn others_are_refused_with_what_would_do() {
        for name in ["gfx906", "gfx1030", "sm_75", "gfxzz", "", "ga102"] {
            let error = Architecture::parse(name).unwrap_err().to_string();
            assert!(error.contains("gfx942") && error.contains("sm_80"), "{error}");
        }
    }

    #[test]
    fn fnuz_bytes_never_meet_ocp_devices() {
        let [cdna3, cdna4] = ["gfx942", "gfx950"].map(|name| Architecture::parse(name).unwrap());
        assert_eq!(cdna3.float8(Float8Format::E4M3), Some((Float8Format::E4M3Fnuz, 2.0)));
        assert_eq!(cdna3.float8(Float8Format::E4M3Fnuz), Some((Float8Format::E4M3Fnuz, 1.0)));
        assert_eq!(cdna4.float8(Float8Format::E5M2), Some((Float8Format::E5M2, 1.0)));
        assert_eq!(cdna4.float8(Float8Format::E5M2Fnuz), None);
    }
}
