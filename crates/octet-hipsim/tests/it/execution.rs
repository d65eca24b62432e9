//! Launches: ids, LDS, barriers, faults.

use crate::gpu::{
    Buffer, Kernel, fault_message, hipDeviceSynchronize, hipFree, in_process, is_child, use_device,
};

/// Reverses each block's part through LDS.
const REVERSE: &str = "
struct Params { const float* from; float* to; };
HIPSIM_KERNEL(reverse, 256, Params) {
    HIPSIM_SHARED float tile[256];
    unsigned thread = __builtin_amdgcn_workitem_id_x(), block = __builtin_amdgcn_workgroup_id_x();
    tile[thread] = p.from[256 * block + thread];
    BARRIER
    p.to[256 * block + thread] = tile[255 - thread];
}";

#[repr(C)]
struct Params {
    from: *const f32,
    to: *mut f32,
}

fn reverse(arch: &str, source: &str) -> Vec<f32> {
    let kernel = Kernel::new(arch, "reverse", source);
    let from: Vec<f32> = (0..1024_u16).map(f32::from).collect();
    let (from, to) = (Buffer::of(&from), Buffer::<f32>::new(1024));
    assert_eq!(kernel.run(4, 256, &Params { from: from.address, to: to.address }), 0);
    to.values()
}

fn is_reversed(values: &[f32]) -> bool {
    (0..1024).all(|index| values[index] == (index / 256 * 256 + 255 - index % 256) as f32)
}

#[test]
fn threads_meet_at_a_barrier() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let source = REVERSE.replace("BARRIER", "__builtin_amdgcn_s_barrier();");
    for arch in ["gfx942", "gfx1100", "gfx950", "gfx1201", "gfx90a"] {
        assert!(is_reversed(&reverse(arch, &source)), "{arch}");
    }
}

#[test]
fn a_missing_barrier_shows() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let values = reverse("gfx942", &REVERSE.replace("BARRIER", ""));
    assert!(!is_reversed(&values));
    assert!(values.iter().any(|value| value.is_nan()), "LDS that nobody wrote is poison");
}

#[test]
fn reading_behind_memory_is_a_fault_that_names_the_kernel() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !is_child() {
        let text = in_process("execution::reading_behind_memory_is_a_fault_that_names_the_kernel", &[]);
        assert!(text.contains("kernel reverse, block [3, 0, 0], thread "), "{text}");
        return;
    }
    let kernel =
        Kernel::new("gfx942", "reverse", &REVERSE.replace("BARRIER", "__builtin_amdgcn_s_barrier();"));
    let (from, to) = (Buffer::of(&[1.0_f32; 1023]), Buffer::<f32>::new(1024));
    assert_eq!(kernel.run(4, 256, &Params { from: from.address, to: to.address }), 0);
    // One float is within the slack of an allocation's alignment; four are not.
    let from = Buffer::of(&[1.0_f32; 1020]);
    assert_eq!(kernel.run(4, 256, &Params { from: from.address, to: to.address }), 700);
    assert!(fault_message().contains("reached for memory"), "{}", fault_message());
    assert_eq!(hipDeviceSynchronize(), 700, "nothing works after a fault");
}

/// Sums 256 numbers as a tree in LDS, and again the doubled sums.
const SUM: &str = "
struct Params { const float* from; float* to; };
HIPSIM_KERNEL(sum, 256, Params) {
    HIPSIM_SHARED float values[256];
    unsigned thread = __builtin_amdgcn_workitem_id_x();
    float mine = p.from[thread];
    for (unsigned round = 0; round < 2; ++round) {
        values[thread] = mine;
        __builtin_amdgcn_s_barrier(); // first
        for (unsigned half = 128; half > 0; half /= 2) {
            if (thread < half) values[thread] += values[thread + half];
            __builtin_amdgcn_s_barrier(); // second
        }
        mine = 2 * values[0];
        __builtin_amdgcn_s_barrier(); // third
    }
    p.to[thread] = mine;
}";

/// Whether every thread got the right result with the seed of the environment.
fn sum_is_right(source: &str) -> bool {
    let kernel = Kernel::new("gfx942", "sum", source);
    let (from, to) = (Buffer::of(&[1.0_f32; 256]), Buffer::<f32>::new(256));
    assert_eq!(kernel.run(1, 256, &Params { from: from.address, to: to.address }), 0);
    to.values().iter().all(|sum| *sum == (512 * 512) as f32)
}

#[test]
fn each_barrier_of_a_sum_is_needed() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let name = "execution::each_barrier_of_a_sum_is_needed";
    if !is_child() {
        let seeds = ["1", "2", "3", "4", "5"];
        let texts = seeds.map(|seed| in_process(name, &[("OCTET_HIPSIM_SEED", seed)]));
        for barrier in ["first", "second", "third"] {
            let caught =
                texts.iter().filter(|text| text.contains(&format!("caught without {barrier}"))).count();
            assert!(caught > 0, "no seed of five shows that the {barrier} barrier is missing");
        }
        return;
    }
    assert!(sum_is_right(SUM));
    for barrier in ["first", "second", "third"] {
        let without = SUM.replace(&format!("__builtin_amdgcn_s_barrier(); // {barrier}"), "");
        if !sum_is_right(&without) {
            report(&format!("caught without {barrier}"));
        }
    }
}

#[expect(clippy::print_stdout, reason = "the parent process reads it")]
fn report(text: &str) {
    println!("{text}");
}

#[test]
fn ids_are_those_of_the_grid() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let source = "struct Params { unsigned* to; };
        HIPSIM_KERNEL(ids, 64, Params) {
            unsigned x = __builtin_amdgcn_workgroup_id_x(), y = __builtin_amdgcn_workgroup_id_y();
            unsigned z = __builtin_amdgcn_workgroup_id_z(), thread = __builtin_amdgcn_workitem_id_x();
            unsigned columns = __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x();
            unsigned block = (z * 3 + y) * columns + x;
            p.to[block * 64 + thread] = z << 24 | y << 16 | x << 8 | thread;
        }";
    let kernel = Kernel::new("gfx1100", "ids", source);
    let to = Buffer::<u32>::new(2 * 3 * 5 * 64);
    assert_eq!(kernel.launch(0, [5, 3, 2], 64, &to.address), 0);
    for (index, found) in (0_u32..).zip(to.values()) {
        let (thread, x, y, z) = (index % 64, index / 64 % 5, index / 320 % 3, index / 960);
        assert_eq!(found, z << 24 | y << 16 | x << 8 | thread);
    }
}

/// Runs a kernel that must fail, in a process of its own. Returns in the parent alone.
fn expect_fault(name: &str, body: &str, result: i32, message: &str) {
    if !is_child() {
        in_process(name, &[]);
        return;
    }
    let source = format!(
        "struct Params {{ float* to; }};
        HIPSIM_KERNEL(wrong, 256, Params) {{
            HIPSIM_SHARED float values[256];
            unsigned thread = __builtin_amdgcn_workitem_id_x();
            values[thread] = 0;
            {body}
            p.to[thread] = values[thread];
        }}"
    );
    let to = Buffer::<f32>::new(256);
    assert_eq!(Kernel::new("gfx942", "wrong", &source).run(1, 256, &to.address), result);
    assert!(fault_message().contains(message), "{}", fault_message());
}

#[test]
fn a_barrier_that_some_threads_miss_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let name = "execution::a_barrier_that_some_threads_miss_is_a_fault";
    expect_fault(name, "if (thread < 128) __builtin_amdgcn_s_barrier();", 719, "do not meet at a barrier");
}

#[test]
fn a_barrier_that_some_lanes_miss_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let name = "execution::a_barrier_that_some_lanes_miss_is_a_fault";
    expect_fault(name, "if (thread != 70) __builtin_amdgcn_s_barrier();", 719, "diverged");
}

#[test]
fn two_barriers_are_not_one() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let body = "if (thread < 64) __builtin_amdgcn_s_barrier(); else __builtin_amdgcn_s_barrier();";
    expect_fault("execution::two_barriers_are_not_one", body, 719, "do not meet at a barrier");
}

#[test]
fn an_index_outside_of_lds_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let name = "execution::an_index_outside_of_lds_is_a_fault";
    expect_fault(name, "values[thread + 1] = 1;", 719, "outside of its bounds");
}

#[test]
fn a_null_pointer_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let body = "if (thread == 9) *(volatile int*)(p.to == nullptr ? 4ul : 8ul) = 1;";
    expect_fault("execution::a_null_pointer_is_a_fault", body, 700, "thread 9: it reached for memory at 0x8");
}

#[test]
fn endless_recursion_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let body = "struct Deep { static int down(int n) { volatile int own[256]; own[n & 255] = n; int below = down(n + 1); return own[n & 255] + below; } };
            values[thread] = Deep::down(1);";
    expect_fault("execution::endless_recursion_is_a_fault", body, 700, "it reached for memory");
}

#[test]
fn freed_memory_is_a_fault() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !is_child() {
        in_process("execution::freed_memory_is_a_fault", &[]);
        return;
    }
    use_device("gfx942");
    let kernel = Kernel::new(
        "gfx942",
        "reverse",
        REVERSE.replace("BARRIER", "__builtin_amdgcn_s_barrier();").as_str(),
    );
    let (from, to) = (Buffer::of(&[1.0_f32; 1024]), Buffer::<f32>::new(1024));
    assert_eq!(hipFree(from.address.cast()), 0);
    assert_eq!(kernel.run(4, 256, &Params { from: from.address, to: to.address }), 700);
}
