//! Matrix instructions against a plain product: each element of A, B and D is put and looked for where AMD's manuals say.

use half::{bf16, f16};
use octet_float8::Float8Format;

use crate::gpu::{Buffer, Kernel, compile};

/// Element types of operands.
#[derive(Clone, Copy)]
enum Element {
    F32,
    F16,
    Bf16,
    Float8(Float8Format),
}

impl Element {
    fn encode(self, value: f32) -> Vec<u8> {
        match self {
            Self::F32 => value.to_le_bytes().to_vec(),
            Self::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Self::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Self::Float8(format) => vec![format.encode(value)],
        }
    }
}

/// A matrix instruction: D = A B + C with A [m, k] and B [k, m].
struct Instruction {
    arch: &'static str,
    builtin: &'static str,
    element: Element,
    m: usize,
    k: usize,
    /// C's types of an operand and of the accumulator.
    operand: &'static str,
    accumulator: &'static str,
    /// Further arguments: cbsz, abid and blgp of MFMA.
    rest: &'static str,
}

impl Instruction {
    fn wave(&self) -> usize {
        if self.arch.starts_with("gfx9") { 64 } else { 32 }
    }

    /// Elements of A or B in a lane.
    fn per_lane(&self) -> usize {
        if self.arch == "gfx1100" { self.k } else { self.m * self.k / self.wave() }
    }

    /// Row (of A; column of B) and k of a lane's element.
    fn place(&self, lane: usize, element: usize) -> (usize, usize) {
        let group = if self.arch == "gfx1100" { 0 } else { lane / self.m };
        (lane % self.m, group * self.per_lane() + element)
    }

    /// Row of D of a lane's register. Its column is the lane's number modulo m.
    fn row(&self, lane: usize, register: usize) -> usize {
        match (self.arch, self.m) {
            ("gfx1100", _) => 2 * register + lane / 16,
            ("gfx1201", _) => 8 * (lane / 16) + register,
            (_, 16) => 4 * (lane / 16) + register,
            _ => 8 * (register / 4) + 4 * (lane / 32) + register % 4,
        }
    }

    fn source(&self) -> String {
        let Self { builtin, operand, accumulator, rest, .. } = self;
        format!(
            "typedef short short4 __attribute__((ext_vector_type(4)));
            typedef short short8 __attribute__((ext_vector_type(8)));
            typedef short short16 __attribute__((ext_vector_type(16)));
            typedef _Float16 half4 __attribute__((ext_vector_type(4)));
            typedef _Float16 half8 __attribute__((ext_vector_type(8)));
            typedef _Float16 half16 __attribute__((ext_vector_type(16)));
            typedef __bf16 bfloat8 __attribute__((ext_vector_type(8)));
            typedef int int2 __attribute__((ext_vector_type(2)));
            typedef float float4 __attribute__((ext_vector_type(4)));
            typedef float float8 __attribute__((ext_vector_type(8)));
            typedef float float16 __attribute__((ext_vector_type(16)));
            struct Params {{ const {operand}* a; const {operand}* b; {accumulator}* c; }};
            HIPSIM_KERNEL(multiply, HIPSIM_WAVE, Params) {{
                unsigned lane = __builtin_amdgcn_workitem_id_x();
                p.c[lane] = {builtin}(p.a[lane], p.b[lane], p.c[lane]{rest});
            }}"
        )
    }

    /// Bytes of an operand for all lanes, from a matrix by row (or column) and k.
    fn spread(&self, value: impl Fn(usize, usize) -> f32) -> Vec<u8> {
        let lanes =
            (0..self.wave()).flat_map(|lane| (0..self.per_lane()).map(move |element| (lane, element)));
        let places = lanes.map(|(lane, element)| self.place(lane, element));
        places.flat_map(|(row, k)| self.element.encode(value(row, k))).collect()
    }

    fn check(&self) {
        // Small integers: exact in every format, as are their sums.
        let a = |row: usize, k: usize| ((row * 7 + k * 3) % 9) as f32 - 4.0;
        let b = |column: usize, k: usize| ((column * 5 + k * 11) % 7) as f32 - 3.0;
        let c = |row: usize, column: usize| (row * 32 + column) as f32;
        let registers = self.m * self.m / self.wave();
        let accumulators: Vec<(usize, usize)> = (0..self.wave())
            .flat_map(|lane| (0..registers).map(move |register| (lane, register)))
            .map(|(lane, register)| (self.row(lane, register), lane % self.m))
            .collect();
        let before: Vec<f32> = accumulators.iter().map(|(row, column)| c(*row, *column)).collect();
        let (a_lanes, b_lanes) = (Buffer::of(&self.spread(a)), Buffer::of(&self.spread(b)));
        let d_lanes = Buffer::of(&before);
        let parameters = [a_lanes.address as usize, b_lanes.address as usize, d_lanes.address as usize];
        let kernel = Kernel::new(self.arch, "multiply", &self.source());
        assert_eq!(kernel.run(1, u32::try_from(self.wave()).unwrap(), &parameters), 0, "{}", self.builtin);
        for ((row, column), found) in accumulators.into_iter().zip(d_lanes.values()) {
            let right = c(row, column) + (0..self.k).map(|k| a(row, k) * b(column, k)).sum::<f32>();
            assert_eq!(found, right, "{} on {}: D[{row}][{column}]", self.builtin, self.arch);
        }
    }
}

fn mfma(
    arch: &'static str,
    builtin: &'static str,
    element: Element,
    (m, k): (usize, usize),
    operand: &'static str,
) -> Instruction {
    let accumulator = if m == 16 { "float4" } else { "float16" };
    Instruction { arch, builtin, element, m, k, operand, accumulator, rest: ", 0, 0, 0" }
}

fn wmma(arch: &'static str, builtin: &'static str, element: Element, operand: &'static str) -> Instruction {
    Instruction { arch, builtin, element, m: 16, k: 16, operand, accumulator: "float8", rest: "" }
}

#[test]
fn mfma_of_16_and_32_bits() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for arch in ["gfx90a", "gfx942", "gfx950"] {
        for (builtin, element, size, operand) in [
            ("__builtin_amdgcn_mfma_f32_16x16x4f32", Element::F32, (16, 4), "float"),
            ("__builtin_amdgcn_mfma_f32_32x32x2f32", Element::F32, (32, 2), "float"),
            ("__builtin_amdgcn_mfma_f32_16x16x16f16", Element::F16, (16, 16), "half4"),
            ("__builtin_amdgcn_mfma_f32_32x32x8f16", Element::F16, (32, 8), "half4"),
            ("__builtin_amdgcn_mfma_f32_16x16x16bf16_1k", Element::Bf16, (16, 16), "short4"),
            ("__builtin_amdgcn_mfma_f32_32x32x8bf16_1k", Element::Bf16, (32, 8), "short4"),
        ] {
            mfma(arch, builtin, element, size, operand).check();
        }
    }
}

#[test]
fn mfma_of_float8() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for (arch, e4m3, e5m2) in [
        ("gfx942", Float8Format::E4M3Fnuz, Float8Format::E5M2Fnuz),
        ("gfx950", Float8Format::E4M3, Float8Format::E5M2),
    ] {
        let (e4m3, e5m2) = (Element::Float8(e4m3), Element::Float8(e5m2));
        mfma(arch, "__builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8", e4m3, (16, 32), "long").check();
        mfma(arch, "__builtin_amdgcn_mfma_f32_16x16x32_bf8_bf8", e5m2, (16, 32), "long").check();
        mfma(arch, "__builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8", e4m3, (32, 16), "long").check();
        mfma(arch, "__builtin_amdgcn_mfma_f32_32x32x16_bf8_bf8", e5m2, (32, 16), "long").check();
    }
}

#[test]
fn mfma_of_gfx950() {
    octet_unrun::needs!(octet_hipsim::compiler());
    mfma("gfx950", "__builtin_amdgcn_mfma_f32_16x16x32_bf16", Element::Bf16, (16, 32), "bfloat8").check();
    mfma("gfx950", "__builtin_amdgcn_mfma_f32_16x16x32_f16", Element::F16, (16, 32), "half8").check();
    mfma("gfx950", "__builtin_amdgcn_mfma_f32_32x32x16_bf16", Element::Bf16, (32, 16), "bfloat8").check();
    mfma("gfx950", "__builtin_amdgcn_mfma_f32_32x32x16_f16", Element::F16, (32, 16), "half8").check();
}

#[test]
fn wmma_of_rdna() {
    octet_unrun::needs!(octet_hipsim::compiler());
    wmma("gfx1100", "__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32", Element::Bf16, "short16").check();
    wmma("gfx1100", "__builtin_amdgcn_wmma_f32_16x16x16_f16_w32", Element::F16, "half16").check();
    wmma("gfx1201", "__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12", Element::Bf16, "short8").check();
    wmma("gfx1201", "__builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12", Element::F16, "half8").check();
    let (e4m3, e5m2) = (Element::Float8(Float8Format::E4M3), Element::Float8(Float8Format::E5M2));
    wmma("gfx1201", "__builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12", e4m3, "int2").check();
    wmma("gfx1201", "__builtin_amdgcn_wmma_f32_16x16x16_bf8_bf8_w32_gfx12", e5m2, "int2").check();
}

#[test]
fn an_architecture_has_only_its_own_instructions() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let bf16 = Element::Bf16;
    let foreign = [
        wmma("gfx1100", "__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12", bf16, "short8"),
        wmma("gfx1201", "__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32", bf16, "short16"),
        mfma("gfx1100", "__builtin_amdgcn_mfma_f32_16x16x16bf16_1k", bf16, (16, 16), "short4"),
        mfma("gfx942", "__builtin_amdgcn_mfma_f32_16x16x32_bf16", bf16, (16, 32), "bfloat8"),
        mfma("gfx90a", "__builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8", bf16, (16, 32), "long"),
    ];
    for instruction in foreign {
        let (result, log) = compile(instruction.arch, &instruction.source(), &[]).unwrap_err();
        assert_eq!(result, 6);
        assert!(log.contains(instruction.builtin), "{log}");
    }
}
