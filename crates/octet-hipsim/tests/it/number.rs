//! Arithmetic of a single lane, and atomics.

use crate::gpu::{Buffer, Kernel};

/// Values of float expressions of `x`.
fn evaluate(expression: &str, values: &[f32]) -> Vec<f32> {
    let source = format!(
        "typedef _Float16 half2 __attribute__((ext_vector_type(2)));
        struct Params {{ const float* from; float* to; }};
        HIPSIM_KERNEL(evaluate, 64, Params) {{
            unsigned thread = __builtin_amdgcn_workitem_id_x();
            float x = p.from[thread];
            p.to[thread] = (float)({expression});
        }}"
    );
    let (from, to) = (Buffer::of(values), Buffer::<f32>::new(values.len()));
    let kernel = Kernel::new("gfx942", "evaluate", &source);
    let parameters = [from.address as usize, to.address as usize];
    assert_eq!(kernel.run(1, u32::try_from(values.len()).unwrap(), &parameters), 0, "{expression}");
    to.values()
}

#[test]
fn approximations_are_near() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let values = [0.5_f32, 1.0, 2.0, 3.7, 10.0];
    for (expression, right) in [
        ("__builtin_amdgcn_exp2f(x)", f32::exp2 as fn(f32) -> f32),
        ("__builtin_amdgcn_logf(x)", f32::log2),
        ("__builtin_amdgcn_rcpf(x)", f32::recip),
        ("__builtin_amdgcn_rsqf(x)", |x| 1.0 / x.sqrt()),
        ("__builtin_amdgcn_sqrtf(x)", f32::sqrt),
        ("__builtin_amdgcn_fractf(x)", f32::fract),
        ("__builtin_amdgcn_ldexpf(x, 3)", |x| 8.0 * x),
        ("__builtin_amdgcn_fmed3f(x, 1.5f, 3.0f)", |x| x.clamp(1.5, 3.0)),
        // Sine and cosine count in turns.
        ("__builtin_amdgcn_sinf(x)", |x| (x * std::f32::consts::TAU).sin()),
        ("__builtin_amdgcn_cosf(x)", |x| (x * std::f32::consts::TAU).cos()),
        ("__builtin_amdgcn_fdot2(half2{(_Float16)x, 2}, half2{3, 4}, 1.0f, false)", |x| {
            half::f16::from_f32(x).to_f32() * 3.0 + 9.0
        }),
    ] {
        for (value, found) in values.iter().zip(evaluate(expression, &values)) {
            let right = right(*value);
            assert!(
                (found - right).abs() <= 1e-5 * right.abs().max(1.0),
                "{expression} of {value}: {found}, not {right}"
            );
        }
    }
}

#[test]
fn bytes_and_bits_are_moved() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let same = |expression: &str, right: u32| {
        let found = evaluate(&format!("({expression}) == {right}u ? 1 : 0"), &[0.0]);
        assert_eq!(found, [1.0], "{expression} is not {right:#x}");
    };
    same("__builtin_amdgcn_perm(0x44332211u, 0x88776655u, 0x07000405u)", 0x4455_1122);
    same("__builtin_amdgcn_perm(0x44332211u, 0x88776655u, 0x0c0d0b08u)", 0x00ff_0000);
    same("__builtin_amdgcn_alignbit(0x12345678u, 0x9abcdef0u, 8)", 0x789a_bcde);
    same("__builtin_amdgcn_ubfe(0x12345678u, 8, 12)", 0x456);
}

#[test]
fn brain_floats_are_rounded_to_nearest_even() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let values = [1.0_f32, 1.003_906_2, 1.011_718_8, 3.3e38, -0.0, f32::INFINITY, 1e-40];
    let found = evaluate("(__bf16)x", &values);
    let right = values.map(|value| half::bf16::from_f32(value).to_f32());
    assert_eq!(found, right);
}

#[test]
fn atomics_of_all_blocks_add_up() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let source = "struct Params { unsigned* whole; float* broken; unsigned* largest; };
        HIPSIM_KERNEL(count, 256, Params) {
            unsigned thread = __builtin_amdgcn_workitem_id_x(), block = __builtin_amdgcn_workgroup_id_x();
            __hip_atomic_fetch_add(p.whole, 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
            __hip_atomic_fetch_add(p.broken, 0.5f, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
            __hip_atomic_fetch_max(p.largest, 1000 * block + thread, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
        }";
    let (whole, broken, largest) = (Buffer::of(&[0_u32]), Buffer::of(&[0.0_f32]), Buffer::of(&[0_u32]));
    let parameters = [whole.address as usize, broken.address as usize, largest.address as usize];
    assert_eq!(Kernel::new("gfx942", "count", source).run(40, 256, &parameters), 0);
    assert_eq!(
        (whole.values(), broken.values(), largest.values()),
        (vec![10_240], vec![5_120.0], vec![39_255])
    );
}
