//! FP8 conversions of each architecture against the tables of `octet-float8`.

use octet_float8::Float8Format;

use crate::gpu::{Buffer, Kernel, compile};

const SOURCE: &str = "
typedef float float2 __attribute__((ext_vector_type(2)));
struct Params { const float* values; const int* codes; int* encoded; float2* decoded; };
HIPSIM_KERNEL(convert, 256, Params) {
    unsigned thread = __builtin_amdgcn_workgroup_id_x() * 256 + __builtin_amdgcn_workitem_id_x();
    float first = p.values[2 * thread], second = p.values[2 * thread + 1];
    p.encoded[2 * thread] = __builtin_amdgcn_cvt_pk_fp8_f32(first, second, 0x12345678, false);
    p.encoded[2 * thread + 1] = __builtin_amdgcn_cvt_pk_bf8_f32(first, second, 0x12345678, true);
    int codes = p.codes[thread];
    p.decoded[4 * thread] = __builtin_amdgcn_cvt_pk_f32_fp8(codes, false);
    p.decoded[4 * thread + 1] = __builtin_amdgcn_cvt_pk_f32_bf8(codes, true);
    p.decoded[4 * thread + 2] = float2{__builtin_amdgcn_cvt_f32_fp8(codes, 1), __builtin_amdgcn_cvt_f32_fp8(codes, 2)};
    p.decoded[4 * thread + 3] = float2{__builtin_amdgcn_cvt_f32_bf8(codes, 0), __builtin_amdgcn_cvt_f32_bf8(codes, 3)};
}";

const THREADS: usize = 2048;

/// Values near and on every border between two codes, ordinary ones and special ones.
fn values() -> Vec<f32> {
    let mut values =
        vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-30, 1e30, f32::MAX, f32::MIN_POSITIVE];
    for format in Float8Format::ALL {
        let mut finite: Vec<f32> = format.table().iter().copied().filter(|value| value.is_finite()).collect();
        finite.sort_by(f32::total_cmp);
        for pair in finite.windows(2) {
            let middle = f32::midpoint(pair[0], pair[1]);
            values.extend([pair[0], middle, middle.next_up(), middle.next_down()]);
        }
        values.extend([format.max() * 1.03, format.max() * 1.1, -format.max() * 2.0]);
    }
    assert!(values.len() <= 2 * THREADS);
    values.resize(2 * THREADS, 1.5);
    values
}

fn same(left: f32, right: f32) -> bool {
    left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan()
}

/// Whether a code is the format's for a value. NaN has several codes in E5M2.
fn encodes(format: Float8Format, code: u8, value: f32) -> bool {
    let right = format.encode(value);
    code == right || format.decode(code).is_nan() && format.decode(right).is_nan()
}

fn check(arch: &str, e4m3: Float8Format, e5m2: Float8Format) {
    let values = values();
    let codes: Vec<i32> = (0..THREADS)
        .map(|index| {
            i32::from_le_bytes([0_usize, 85, 170, 251].map(|offset| (index + offset).to_le_bytes()[0]))
        })
        .collect();
    let (value_buffer, code_buffer) = (Buffer::of(&values), Buffer::of(&codes));
    let (encoded, decoded) = (Buffer::<i32>::new(2 * THREADS), Buffer::<f32>::new(8 * THREADS));
    let parameters = [
        value_buffer.address as usize,
        code_buffer.address as usize,
        encoded.address as usize,
        decoded.address as usize,
    ];
    let kernel = Kernel::new(arch, "convert", SOURCE);
    assert_eq!(kernel.run(u32::try_from(THREADS / 256).unwrap(), 256, &parameters), 0);
    let (encoded, decoded) = (encoded.values(), decoded.values());
    for thread in 0..THREADS {
        let [low, high] = [encoded[2 * thread], encoded[2 * thread + 1]].map(i32::to_le_bytes);
        assert_eq!((low[2], low[3], high[0], high[1]), (0x34, 0x12, 0x78, 0x56), "the other half is kept");
        for (index, value) in values[2 * thread..2 * thread + 2].iter().enumerate() {
            assert!(encodes(e4m3, low[index], *value), "{arch}: {value} in {e4m3} is {:#x}", low[index]);
            assert!(
                encodes(e5m2, high[2 + index], *value),
                "{arch}: {value} in {e5m2} is {:#x}",
                high[2 + index]
            );
        }
        let code = codes[thread].to_le_bytes();
        let right = [
            e4m3.decode(code[0]),
            e4m3.decode(code[1]),
            e5m2.decode(code[2]),
            e5m2.decode(code[3]),
            e4m3.decode(code[1]),
            e4m3.decode(code[2]),
            e5m2.decode(code[0]),
            e5m2.decode(code[3]),
        ];
        for (found, right) in decoded[8 * thread..8 * thread + 8].iter().zip(right) {
            assert!(same(*found, right), "{arch}: {code:?} is {found} and not {right}");
        }
    }
}

#[test]
fn gfx942_converts_to_fnuz() {
    octet_unrun::needs!(octet_hipsim::compiler());
    check("gfx942", Float8Format::E4M3Fnuz, Float8Format::E5M2Fnuz);
}

#[test]
fn gfx950_and_gfx1201_convert_to_ocp() {
    octet_unrun::needs!(octet_hipsim::compiler());
    check("gfx950", Float8Format::E4M3, Float8Format::E5M2);
    check("gfx1201", Float8Format::E4M3, Float8Format::E5M2);
}

#[test]
fn others_have_no_conversions() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for arch in ["gfx90a", "gfx1100"] {
        let (result, log) = compile(arch, SOURCE, &[]).unwrap_err();
        assert_eq!(result, 6);
        assert!(log.contains("__builtin_amdgcn_cvt_pk_fp8_f32"), "{log}");
    }
}
