//! What lanes of a wave exchange, against what AMD's manuals say each lane reads.

use crate::gpu::{Buffer, Kernel, compile, fault_message, in_process, is_child};

/// What a lane reads: a lane's number, its old value, or zero.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Read {
    Lane(usize),
    Old,
    Zero,
}

/// Runs an expression in one wave. Each lane holds 100 plus its number; the results of all lanes are returned.
fn evaluate(arch: &str, expression: &str) -> Vec<i32> {
    let wave = if arch.starts_with("gfx9") { 64 } else { 32 };
    let source = format!(
        "struct Params {{ int* to; }};
        HIPSIM_KERNEL(evaluate, 64, Params) {{
            int lane = (int)__builtin_amdgcn_workitem_id_x(), mine = 100 + lane;
            p.to[lane] = (int)({expression});
        }}"
    );
    let to = Buffer::<i32>::new(wave);
    let kernel = Kernel::new(arch, "evaluate", &source);
    assert_eq!(kernel.run(1, u32::try_from(wave).unwrap(), &to.address), 0, "{expression}");
    to.values()
}

fn expect(arch: &str, expression: &str, read: impl Fn(usize) -> Read) {
    let right = |lane| match read(lane) {
        Read::Lane(lane) => 100 + i32::try_from(lane).unwrap(),
        Read::Old => -7,
        Read::Zero => 0,
    };
    let found = evaluate(arch, expression);
    let right: Vec<i32> = (0..found.len()).map(right).collect();
    assert_eq!(found, right, "{expression} on {arch}");
}

/// `update_dpp` of a lane's value over an old one of -7.
fn dpp(control: u32, bound: bool) -> String {
    format!("__builtin_amdgcn_update_dpp(-7, mine, {control:#x}, 0xf, 0xf, {bound})")
}

#[test]
fn dpp_within_rows() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for arch in ["gfx942", "gfx1100"] {
        expect(arch, &dpp(0b00_01_10_11, true), |lane| Read::Lane(lane / 4 * 4 + 3 - lane % 4));
        expect(
            arch,
            &dpp(0x101, true),
            |lane| if lane % 16 == 15 { Read::Zero } else { Read::Lane(lane + 1) },
        );
        expect(
            arch,
            &dpp(0x104, false),
            |lane| if lane % 16 >= 12 { Read::Old } else { Read::Lane(lane + 4) },
        );
        expect(
            arch,
            &dpp(0x111, true),
            |lane| if lane % 16 == 0 { Read::Zero } else { Read::Lane(lane - 1) },
        );
        expect(arch, &dpp(0x118, false), |lane| if lane % 16 < 8 { Read::Old } else { Read::Lane(lane - 8) });
        expect(arch, &dpp(0x121, true), |lane| Read::Lane(lane / 16 * 16 + (lane + 15) % 16));
        expect(arch, &dpp(0x128, true), |lane| Read::Lane(lane / 16 * 16 + (lane + 8) % 16));
        expect(arch, &dpp(0x140, true), |lane| Read::Lane(lane / 16 * 16 + 15 - lane % 16));
        expect(arch, &dpp(0x141, true), |lane| Read::Lane(lane / 8 * 8 + 7 - lane % 8));
        expect(arch, &dpp(0x155, true), |lane| Read::Lane(lane / 16 * 16 + 5));
    }
    expect("gfx1100", &dpp(0x163, true), |lane| Read::Lane(lane ^ 3));
}

#[test]
fn dpp_across_rows_of_gfx9() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let last_below = |lane: usize| if lane < 16 { None } else { Some(lane / 16 * 16 - 1) };
    expect("gfx942", &dpp(0x142, false), |lane| last_below(lane).map_or(Read::Old, Read::Lane));
    expect("gfx942", &dpp(0x143, false), |lane| if lane < 32 { Read::Old } else { Read::Lane(31) });
    expect("gfx90a", &dpp(0x138, true), |lane| if lane == 0 { Read::Zero } else { Read::Lane(lane - 1) });
    expect("gfx90a", &dpp(0x134, true), |lane| Read::Lane((lane + 1) % 64));
}

#[test]
fn dpp_masks_keep_the_old_value() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let rows = "__builtin_amdgcn_update_dpp(-7, mine, 0x140, 0xa, 0xf, true)";
    expect("gfx942", rows, |lane| {
        if lane / 16 % 2 == 1 { Read::Lane(lane / 16 * 16 + 15 - lane % 16) } else { Read::Old }
    });
    let banks = "__builtin_amdgcn_update_dpp(-7, mine, 0x140, 0xf, 0x1, true)";
    expect("gfx942", banks, |lane| {
        if lane % 16 < 4 { Read::Lane(lane / 16 * 16 + 15 - lane % 16) } else { Read::Old }
    });
}

#[test]
fn a_dpp_control_of_another_architecture_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !is_child() {
        in_process("wave::a_dpp_control_of_another_architecture_is_a_fault", &[]);
        return;
    }
    // row_bcast15 went with wave64.
    let source = "struct Params { int* to; };
        HIPSIM_KERNEL(broadcast, 32, Params) {
            p.to[__builtin_amdgcn_workitem_id_x()] = __builtin_amdgcn_update_dpp(0, 1, 0x142, 0xf, 0xf, true);
        }";
    let to = Buffer::<i32>::new(32);
    let kernel = Kernel::new("gfx1100", "broadcast", source);
    assert_eq!(kernel.run(1, 32, &to.address), 719);
    assert!(fault_message().contains("DPP control"), "{}", fault_message());
}

#[test]
fn lanes_are_pulled_pushed_and_swizzled() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for (arch, wave) in [("gfx942", 64), ("gfx1100", 32)] {
        expect(arch, "__builtin_amdgcn_ds_bpermute(4 * (lane ^ 21), mine)", |lane| Read::Lane(lane ^ 21));
        expect(arch, "__builtin_amdgcn_ds_bpermute(4 * (lane + 3), mine)", |lane| {
            Read::Lane((lane + 3) % wave)
        });
        expect(arch, "__builtin_amdgcn_ds_permute(4 * (lane + 3), mine)", |lane| {
            Read::Lane((lane + wave - 3) % wave)
        });
        // Pairs push to their even lane: the odd one wins, and nobody writes the odd lanes.
        expect(arch, "__builtin_amdgcn_ds_permute(4 * (lane & ~1), mine)", |lane| {
            if lane % 2 == 0 { Read::Lane(lane + 1) } else { Read::Zero }
        });
        expect(arch, "__builtin_amdgcn_ds_swizzle(mine, 0x401f)", |lane| Read::Lane(lane ^ 16));
        expect(arch, "__builtin_amdgcn_ds_swizzle(mine, 0x801b)", |lane| Read::Lane(lane ^ 3));
        expect(arch, "__builtin_amdgcn_readlane(mine, 5)", |_| Read::Lane(5));
        expect(arch, "__builtin_amdgcn_readfirstlane(mine)", |_| Read::Lane(0));
    }
    expect("gfx1100", "__builtin_amdgcn_mov_dpp8(mine, 0x53977)", |lane| {
        Read::Lane(lane / 8 * 8 + 7 - lane % 8)
    });
    let (low, high) = ("0x01234567", "0x89abcdef");
    let reversed = |lane: usize| lane / 16 * 16 + if lane % 16 < 8 { 7 - lane % 16 } else { 23 - lane % 16 };
    let own = format!("__builtin_amdgcn_permlane16(0, mine, {low}, {high}, false, false)");
    expect("gfx1201", &own, |lane| Read::Lane(reversed(lane)));
    let other = format!("__builtin_amdgcn_permlanex16(0, mine, {low}, {high}, false, false)");
    expect("gfx1201", &other, |lane| Read::Lane(reversed(lane) ^ 16));
    let swap = "__builtin_amdgcn_permlane32_swap((unsigned)mine, (unsigned)mine, false, false)";
    expect("gfx950", &format!("{swap}.x"), |lane| Read::Lane(lane % 32));
    expect("gfx950", &format!("{swap}.y"), |lane| Read::Lane(lane % 32 + 32));
    let swap = "__builtin_amdgcn_permlane16_swap((unsigned)mine, (unsigned)mine, false, false)";
    expect("gfx950", &format!("{swap}.x"), |lane| Read::Lane(lane / 32 * 32 + lane % 16));
    expect("gfx950", &format!("{swap}.y"), |lane| Read::Lane(lane / 32 * 32 + 16 + lane % 16));
}

#[test]
fn lanes_vote_and_count() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let votes = evaluate("gfx942", "__builtin_amdgcn_ballot_w64(lane % 3 == 0) >> 32");
    assert!(votes.iter().all(|half| *half == 0x9249_2492_u32.cast_signed()), "{votes:x?}");
    let votes = evaluate("gfx1100", "__builtin_amdgcn_ballot_w32(lane >= 30)");
    assert!(votes.iter().all(|votes| *votes == 0xc000_0000_u32.cast_signed()), "{votes:x?}");
    let count = "__builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0))";
    assert_eq!(evaluate("gfx942", count), (0..64).collect::<Vec<_>>());
    assert_eq!(evaluate("gfx1201", count), (0..32).collect::<Vec<_>>());
}

#[test]
fn only_gfx950_swaps_halves() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let source = "struct Params { int* to; };
        HIPSIM_KERNEL(swap, 64, Params) { *p.to = __builtin_amdgcn_permlane32_swap(1u, 2u, false, false).x; }";
    assert_eq!(compile("gfx942", source, &[]).unwrap_err().0, 6);
}

#[test]
fn a_collective_without_some_lanes_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !is_child() {
        in_process("wave::a_collective_without_some_lanes_is_a_fault", &[]);
        return;
    }
    let source = "struct Params { int* to; };
        HIPSIM_KERNEL(diverge, 64, Params) {
            int lane = (int)__builtin_amdgcn_workitem_id_x();
            if (lane < 40) p.to[lane] = __builtin_amdgcn_ds_bpermute(4 * lane, lane);
        }";
    let to = Buffer::<i32>::new(64);
    assert_eq!(Kernel::new("gfx942", "diverge", source).run(1, 64, &to.address), 719);
    let message = fault_message();
    assert!(message.contains("kernel diverge") && message.contains("diverged"), "{message}");
    assert!(message.contains("line 4") && message.contains("lane 40 has ended"), "{message}");
}

#[test]
fn lanes_of_a_wave_exchange_through_lds_only_at_a_rendezvous() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let source = "struct Params { int* to; };
        HIPSIM_KERNEL(exchange, 64, Params) {
            HIPSIM_SHARED int values[64];
            int lane = (int)__builtin_amdgcn_workitem_id_x();
            values[lane] = lane;
            MEET
            p.to[lane] = values[63 - lane];
        }";
    let run = |meet: &str| {
        let to = Buffer::<i32>::new(64);
        let kernel = Kernel::new("gfx942", "exchange", &source.replace("MEET", meet));
        assert_eq!(kernel.run(1, 64, &to.address), 0);
        to.values()
    };
    let right: Vec<i32> = (0..64).rev().collect();
    assert_eq!(run("__builtin_amdgcn_wave_barrier();"), right);
    assert_ne!(run(""), right);
}
