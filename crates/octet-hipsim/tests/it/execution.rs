//! Launches: ids, LDS, barriers, faults.

use crate::gpu::{Buffer, Kernel, fault_message, hipDeviceSynchronize, in_process, is_child};

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
    let source = REVERSE.replace("BARRIER", "__builtin_amdgcn_s_barrier();");
    for arch in ["gfx942", "gfx1100", "gfx950", "gfx1201", "gfx90a"] {
        assert!(is_reversed(&reverse(arch, &source)), "{arch}");
    }
}

#[test]
fn a_missing_barrier_shows() {
    let values = reverse("gfx942", &REVERSE.replace("BARRIER", ""));
    assert!(!is_reversed(&values));
    assert!(values.iter().any(|value| value.is_nan()), "LDS that nobody wrote is poison");
}

#[test]
fn reading_behind_memory_is_a_fault_that_names_the_kernel() {
    if !is_child() {
        let text = in_process("execution::reading_behind_memory_is_a_fault_that_names_the_kernel", &[]);
        assert!(text.contains("kernel reverse, block [3, 0, 0], thread "), "{text}");
        return;
    }
    let kernel = Kernel::new("gfx942", "reverse", &REVERSE.replace("BARRIER", "__builtin_amdgcn_s_barrier();"));
    let (from, to) = (Buffer::of(&[1.0_f32; 1023]), Buffer::<f32>::new(1024));
    assert_eq!(kernel.run(4, 256, &Params { from: from.address, to: to.address }), 0);
    // One float is within the slack of an allocation's alignment; four are not.
    let from = Buffer::of(&[1.0_f32; 1020]);
    assert_eq!(kernel.run(4, 256, &Params { from: from.address, to: to.address }), 700);
    assert!(fault_message().contains("reached for memory"), "{}", fault_message());
    assert_eq!(hipDeviceSynchronize(), 700, "nothing works after a fault");
}
