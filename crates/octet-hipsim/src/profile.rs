//! The architectures that the simulator knows, and what a device of each says of itself.

/// An architecture as a device presents it. Sizes are those of the named product.
#[derive(Debug, PartialEq)]
pub(crate) struct Profile {
    /// As in `--offload-arch`.
    pub(crate) name: &'static str,
    /// As in `gcnArchName`: with the target's features.
    pub(crate) full_name: &'static str,
    /// Name of a product.
    pub(crate) product: &'static str,
    /// Lanes of a wave.
    pub(crate) wave: u32,
    /// Bytes of LDS that a block may use.
    pub(crate) lds_bytes: usize,
    /// Compute units.
    pub(crate) units: u32,
    /// Bytes of the second-level cache.
    pub(crate) l2_bytes: u32,
    /// Width of the memory bus in bits, and its clock in kHz.
    pub(crate) memory_bus: (u32, u32),
    /// Clock of the compute units in kHz.
    pub(crate) clock: u32,
    /// How FP8 bytes are read.
    pub(crate) float8: Float8,
}

/// The FP8 formats of an architecture's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float8 {
    /// It has no FP8 instruction.
    None,
    /// E4M3 FNUZ and E5M2 FNUZ.
    Fnuz,
    /// E4M3 and E5M2 of the Open Compute Project.
    Ocp,
}

/// All profiles.
pub(crate) const PROFILES: [Profile; 5] = [
    Profile {
        name: "gfx942",
        full_name: "gfx942:sramecc+:xnack-",
        product: "AMD Instinct MI300X (simulated)",
        wave: 64,
        lds_bytes: 64 << 10,
        units: 304,
        l2_bytes: 4 << 20,
        memory_bus: (8192, 2_600_000),
        clock: 2_100_000,
        float8: Float8::Fnuz,
    },
    Profile {
        name: "gfx1100",
        full_name: "gfx1100",
        product: "AMD Radeon RX 7900 XTX (simulated)",
        wave: 32,
        lds_bytes: 64 << 10,
        units: 96,
        l2_bytes: 6 << 20,
        memory_bus: (384, 10_000_000),
        clock: 2_500_000,
        float8: Float8::None,
    },
    Profile {
        name: "gfx950",
        full_name: "gfx950:sramecc+:xnack-",
        product: "AMD Instinct MI355X (simulated)",
        wave: 64,
        lds_bytes: 160 << 10,
        units: 256,
        l2_bytes: 4 << 20,
        memory_bus: (8192, 4_000_000),
        clock: 2_400_000,
        float8: Float8::Ocp,
    },
    Profile {
        name: "gfx1201",
        full_name: "gfx1201",
        product: "AMD Radeon RX 9070 XT (simulated)",
        wave: 32,
        lds_bytes: 64 << 10,
        units: 64,
        l2_bytes: 8 << 20,
        memory_bus: (256, 10_000_000),
        clock: 2_970_000,
        float8: Float8::Ocp,
    },
    Profile {
        name: "gfx90a",
        full_name: "gfx90a:sramecc+:xnack-",
        product: "AMD Instinct MI210 (simulated)",
        wave: 64,
        lds_bytes: 64 << 10,
        units: 104,
        l2_bytes: 8 << 20,
        memory_bus: (4096, 1_600_000),
        clock: 1_700_000,
        float8: Float8::None,
    },
];

/// The profile of an architecture's name; features behind a colon are ignored, as a code object without them fits all.
pub(crate) fn of_name(name: &str) -> Option<&'static Profile> {
    let bare = name.split(':').next().unwrap_or(name);
    PROFILES.iter().find(|profile| profile.name == bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_a_target_do_not_matter() {
        assert_eq!(of_name("gfx942:sramecc+:xnack-").map(|profile| profile.wave), Some(64));
        assert_eq!(of_name("gfx1100").map(|profile| profile.wave), Some(32));
        assert_eq!(of_name("gfx906"), None);
    }
}
