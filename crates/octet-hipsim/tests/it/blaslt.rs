//! hipBLASLt: products of every type against plain ones, scales, bias, solutions and versions.

use half::{bf16, f16};
use octet_float8::Float8Format;

use crate::gpu::{
    Buffer, Handle, hipStreamSynchronize, hipblasLtCreate, hipblasLtDestroy, hipblasLtGetVersion,
    hipblasLtMatmul, hipblasLtMatmulAlgoGetHeuristic, hipblasLtMatmulDescCreate, hipblasLtMatmulDescDestroy,
    hipblasLtMatmulDescSetAttribute, hipblasLtMatmulPreferenceCreate, hipblasLtMatmulPreferenceSetAttribute,
    hipblasLtMatrixLayoutCreate, hipblasLtMatrixLayoutSetAttribute, in_process, is_child, use_device,
};

/// `hipblasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Found {
    index: i32,
    data: [i32; 3],
    workspace_max: usize,
    workspace: usize,
    state: i32,
    waves: f32,
    reserved: [i32; 4],
}

const F32: i32 = 0;
const F16: i32 = 2;
const BF16: i32 = 14;
const E4M3: i32 = 28;
const E4M3_FNUZ: i32 = 1000;

/// D [m, n] = op(A) B with A stored [k, m]: a linear's weights times its inputs.
struct Linear {
    context: Handle,
    description: Handle,
    layouts: [Handle; 4],
    m: usize,
}

impl Linear {
    fn new(arch: &str, (m, n, k): (u64, u64, u64), input: i32, output: i32) -> Self {
        use_device(arch);
        let (mut context, mut description) = (0, 0);
        assert_eq!(hipblasLtCreate(&raw mut context), 0);
        assert_eq!(hipblasLtMatmulDescCreate(&raw mut description, 2, 0), 0);
        let shapes = [(input, k, m), (input, k, n), (output, m, n), (output, m, n)];
        let layouts = shapes.map(|(element, rows, columns)| {
            let mut layout = 0;
            let leading = rows.cast_signed();
            assert_eq!(hipblasLtMatrixLayoutCreate(&raw mut layout, element, rows, columns, leading), 0);
            layout
        });
        let linear = Self { context, description, layouts, m: usize::try_from(m).unwrap() };
        assert_eq!(linear.set(0, 112_i32), 0);
        linear
    }

    fn set<T: Copy>(&self, attribute: i32, value: T) -> i32 {
        hipblasLtMatmulDescSetAttribute(
            self.description,
            attribute,
            (&raw const value).cast(),
            size_of::<T>(),
        )
    }

    fn heuristic(&self, workspace: usize, requested: i32) -> Result<Vec<Found>, i32> {
        let (mut preference, mut count) = (0, 0);
        assert_eq!(hipblasLtMatmulPreferenceCreate(&raw mut preference), 0);
        assert_eq!(hipblasLtMatmulPreferenceSetAttribute(preference, 1, (&raw const workspace).cast(), 8), 0);
        let mut found = vec![Found::default(); usize::try_from(requested).unwrap()];
        let [a, b, c, d] = self.layouts;
        let pointer = found.as_mut_ptr().cast();
        let (context, description) = (self.context, self.description);
        let result = hipblasLtMatmulAlgoGetHeuristic(
            context,
            description,
            a,
            b,
            c,
            d,
            preference,
            requested,
            pointer,
            &raw mut count,
        );
        found.truncate(usize::try_from(count).unwrap());
        if result == 0 { Ok(found) } else { Err(result) }
    }

    fn run(&self, a: usize, b: usize, d: usize, algorithm: Option<&Found>, workspace: (usize, usize)) -> i32 {
        let (alpha, beta) = (1.0_f32, 0.0_f32);
        let [a_layout, b_layout, c_layout, d_layout] = self.layouts;
        let algorithm = algorithm.map_or(std::ptr::null(), |found| std::ptr::from_ref(found).cast());
        let (context, description) = (self.context, self.description);
        let submitted = hipblasLtMatmul(
            context,
            description,
            (&raw const alpha).cast(),
            a,
            a_layout,
            b,
            b_layout,
            (&raw const beta).cast(),
            d,
            c_layout,
            d,
            d_layout,
            algorithm,
            workspace.0,
            workspace.1,
            0,
        );
        if submitted == 0 { hipStreamSynchronize(0) } else { submitted }
    }

    /// The right sums, from A and B with k fastest.
    fn right(&self, a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
        let columns = b.chunks_exact(k);
        let dot = |row: &[f32], column: &[f32]| {
            row.iter().zip(column).map(|(left, right)| left * right).sum::<f32>()
        };
        let sums = columns.flat_map(|column| a.chunks_exact(k).map(move |row| dot(row, column)));
        let sums: Vec<f32> = sums.collect();
        assert_eq!(sums.len() % self.m, 0);
        sums
    }
}

/// Small integers, whose products and sums are exact.
fn integers(count: usize, modulus: usize) -> Vec<f32> {
    (0..count).map(|index| (index * 7 % modulus) as f32 - (modulus / 2) as f32).collect()
}

#[test]
fn bf16_with_a_bias_by_every_solution() {
    let linear = Linear::new("gfx942", (64, 3, 128), BF16, BF16);
    let (a, b) = (integers(64 * 128, 5), integers(3 * 128, 3));
    let narrow = |values: &[f32]| values.iter().map(|value| bf16::from_f32(*value)).collect::<Vec<_>>();
    let bias = integers(64, 9);
    let buffers = [narrow(&a), narrow(&b), narrow(&bias)].map(|values| Buffer::of(&values));
    let [a_buffer, b_buffer, bias_buffer] = buffers;
    assert_eq!(linear.set(2, 4_i32), 0);
    assert_eq!(linear.set(3, bias_buffer.address as usize), 0);
    let sums = linear.right(&a, &b, 128);
    let right: Vec<bf16> =
        sums.iter().enumerate().map(|(index, sum)| bf16::from_f32(sum + bias[index % 64])).collect();
    let solutions = linear.heuristic(64 << 20, 100).unwrap();
    assert!(solutions.len() >= 4);
    let workspace = Buffer::<u8>::new(32 << 20);
    for solution in &solutions {
        let d = Buffer::<bf16>::new(3 * 64);
        let workspace = (workspace.address as usize, 32 << 20);
        let [a, b, d_address] = [a_buffer.address as usize, b_buffer.address as usize, d.address as usize];
        assert_eq!(linear.run(a, b, d_address, Some(solution), workspace), 0);
        assert_eq!(d.values(), right, "solution {}", solution.index);
        let needs = solution.workspace > 0;
        assert_eq!(linear.run(a, b, d_address, Some(solution), (0, 0)) != 0, needs, "without a workspace");
    }
    assert_eq!(hipblasLtMatmulDescDestroy(linear.description), 0);
    assert_eq!(hipblasLtDestroy(linear.context), 0);
}

#[test]
fn solutions_ask_for_sizes_and_workspace() {
    let odd = Linear::new("gfx942", (17, 3, 33), BF16, F32);
    let few = odd.heuristic(0, 100).unwrap();
    assert_eq!(few.len(), 1, "only the general one takes odd sizes");
    let even = Linear::new("gfx942", (64, 3, 64), BF16, F32);
    let unknown = Found { index: 1, ..Found::default() };
    let largest = even.heuristic(1 << 30, 100).unwrap();
    assert!(largest.len() > even.heuristic(0, 100).unwrap().len());
    assert_eq!(even.heuristic(1 << 30, 2).unwrap().len(), 2);
    assert_eq!(even.run(16, 16, 16, Some(&unknown), (0, 0)), 3);
    let unfit = largest.iter().find(|found| found.index == 902).unwrap();
    assert_eq!(odd.run(16, 16, 16, Some(unfit), (0, 0)), 7);
}

/// FP8 operands with a scale for each row of A and each column of B.
fn float8_with_vectors(arch: &str, element: i32, format: Float8Format, set: impl Fn(&Linear, usize, usize)) {
    let (m, n, k) = (32, 5, 64);
    let linear = Linear::new(arch, (m as u64, n as u64, k as u64), element, BF16);
    let (a, b) = (integers(m * k, 5), integers(n * k, 3));
    let encode = |values: &[f32]| values.iter().map(|value| format.encode(*value)).collect::<Vec<u8>>();
    let (a_buffer, b_buffer) = (Buffer::of(&encode(&a)), Buffer::of(&encode(&b)));
    let powers =
        |count: usize| (0..count).map(|index| 2_f32.powi((index % 5) as i32 - 2)).collect::<Vec<_>>();
    let (rows, columns) = (powers(m), powers(n));
    let (row_buffer, column_buffer) = (Buffer::of(&rows), Buffer::of(&columns));
    set(&linear, row_buffer.address as usize, column_buffer.address as usize);
    let d = Buffer::<bf16>::new(m * n);
    let result =
        linear.run(a_buffer.address as usize, b_buffer.address as usize, d.address as usize, None, (0, 0));
    assert_eq!(result, 0);
    let sums = linear.right(&a, &b, k);
    for (index, (found, sum)) in d.values().into_iter().zip(sums).enumerate() {
        assert_eq!(found, bf16::from_f32(sum * rows[index % m] * columns[index / m]), "{index}");
    }
}

/// As version 7 wants it: pointers, and the mode of vectors.
fn set_7(linear: &Linear, rows: usize, columns: usize) {
    assert_eq!((linear.set(5, rows), linear.set(6, columns)), (0, 0));
    assert_eq!((linear.set(31, 3_u32), linear.set(32, 3_u32)), (0, 0));
}

#[test]
fn float8_with_scales_of_rows_and_columns() {
    float8_with_vectors("gfx942", E4M3_FNUZ, Float8Format::E4M3Fnuz, set_7);
    float8_with_vectors("gfx950", E4M3, Float8Format::E4M3, set_7);
}

#[test]
fn version_6_has_other_attributes() {
    let name = "blaslt::version_6_has_other_attributes";
    if !is_child() {
        in_process(name, &[("OCTET_HIPSIM_ROCM", "6")]);
        return;
    }
    let mut version = 0;
    assert_eq!(hipblasLtGetVersion(0, &raw mut version), 0);
    assert!(version < 100_000, "{version}");
    float8_with_vectors("gfx942", E4M3_FNUZ, Float8Format::E4M3Fnuz, |linear, rows, columns| {
        assert_eq!(linear.set(31, 3_u32), 3, "not known yet");
        assert_eq!((linear.set(102, rows), linear.set(103, columns)), (0, 0));
    });
}

#[test]
fn version_7_takes_the_old_attributes_and_ignores_them() {
    let linear = Linear::new("gfx942", (16, 1, 16), E4M3_FNUZ, F32);
    let ones = Buffer::of(&[Float8Format::E4M3Fnuz.encode(1.0); 256]);
    let scales = Buffer::of(&[2.0_f32; 16]);
    assert_eq!(linear.set(102, scales.address as usize), 0, "success, and something else is meant");
    let d = Buffer::<f32>::new(16);
    let address = ones.address as usize;
    assert_eq!(linear.run(address, address, d.address as usize, None, (0, 0)), 0);
    assert_eq!(d.values(), [16.0; 16]);
}

#[test]
fn what_an_architecture_lacks_is_not_supported() {
    for (arch, element) in [("gfx942", E4M3), ("gfx950", E4M3_FNUZ), ("gfx1100", E4M3), ("gfx90a", E4M3_FNUZ)]
    {
        let linear = Linear::new(arch, (16, 16, 16), element, BF16);
        assert_eq!(linear.heuristic(0, 10).map(|found| found.len()), Err(7), "{arch}");
    }
    let linear = Linear::new("gfx942", (16, 16, 16), BF16, BF16);
    assert_eq!(linear.set(2, 32_i32), 7, "GELU");
    assert_eq!(linear.set(33, 1_i32), 3, "no such attribute");
    assert_eq!(linear.set(31, 4_u32), 7, "blocks of scales");
}

#[test]
fn f16_with_one_scale_is_refused_and_without_is_right() {
    let linear = Linear::new("gfx1100", (20, 3, 40), F16, F32);
    let (a, b) = (integers(20 * 40, 5), integers(3 * 40, 3));
    let narrow = |values: &[f32]| values.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>();
    let (a_buffer, b_buffer) = (Buffer::of(&narrow(&a)), Buffer::of(&narrow(&b)));
    let d = Buffer::<f32>::new(20 * 3);
    let [a_address, b_address] = [a_buffer.address as usize, b_buffer.address as usize];
    assert_eq!(linear.run(a_address, b_address, d.address as usize, None, (0, 0)), 0);
    assert_eq!(d.values(), linear.right(&a, &b, 40));
    assert_eq!(linear.set(5, d.address as usize), 0);
    assert_eq!(linear.run(a_address, b_address, d.address as usize, None, (0, 0)), 7, "scales are FP8's");
}

#[test]
fn float8_with_one_scale_each() {
    let (m, n, k) = (16, 2, 16);
    let linear = Linear::new("gfx1201", (m as u64, n as u64, k as u64), E4M3, F16);
    let (a, b) = (integers(m * k, 5), integers(n * k, 3));
    let encode =
        |values: &[f32]| values.iter().map(|value| Float8Format::E4M3.encode(*value)).collect::<Vec<u8>>();
    let (a_buffer, b_buffer) = (Buffer::of(&encode(&a)), Buffer::of(&encode(&b)));
    let (scale_a, scale_b) = (Buffer::of(&[0.5_f32]), Buffer::of(&[8.0_f32]));
    assert_eq!((linear.set(5, scale_a.address as usize), linear.set(6, scale_b.address as usize)), (0, 0));
    let d = Buffer::<f16>::new(m * n);
    let [a_address, b_address] = [a_buffer.address as usize, b_buffer.address as usize];
    assert_eq!(linear.run(a_address, b_address, d.address as usize, None, (0, 0)), 0);
    let right: Vec<f16> = linear.right(&a, &b, k).iter().map(|sum| f16::from_f32(sum * 4.0)).collect();
    assert_eq!(d.values(), right);
}

/// Two products at once, with op(A) = A, op(B) = B transposed, gaps between columns and batches, alpha, beta and C.
#[test]
fn f32_in_batches_onto_c() {
    use_device("gfx90a");
    let (m, n, k) = (3_usize, 2_usize, 4_usize);
    let (a_leading, b_leading, d_leading) = (5_usize, 3_usize, 4_usize);
    let (a_stride, b_stride, d_stride) = (30_usize, 20_usize, 10_usize);
    let (a, b, c) = (integers(2 * a_stride, 7), integers(2 * b_stride, 5), integers(2 * d_stride, 9));
    let [a_buffer, b_buffer, c_buffer] = [&a, &b, &c].map(|values| Buffer::of(values));
    let (mut context, mut description) = (0, 0);
    assert_eq!(hipblasLtCreate(&raw mut context), 0);
    assert_eq!(hipblasLtMatmulDescCreate(&raw mut description, 2, 0), 0);
    let transposed = 112_i32;
    assert_eq!(hipblasLtMatmulDescSetAttribute(description, 1, (&raw const transposed).cast(), 4), 0);
    let shapes = [
        (m, k, a_leading, a_stride),
        (n, k, b_leading, b_stride),
        (m, n, d_leading, d_stride),
        (m, n, d_leading, d_stride),
    ];
    let layouts = shapes.map(|(rows, columns, leading, stride)| {
        let (mut layout, batches) = (0, 2_i32);
        let (rows, columns) = (rows as u64, columns as u64);
        assert_eq!(hipblasLtMatrixLayoutCreate(&raw mut layout, F32, rows, columns, leading as i64), 0);
        assert_eq!(hipblasLtMatrixLayoutSetAttribute(layout, 0, (&raw const batches).cast(), 4), 0);
        assert_eq!(hipblasLtMatrixLayoutSetAttribute(layout, 1, (&raw const stride).cast(), 8), 0);
        layout
    });
    let (alpha, beta) = (2.0_f32, -1.0_f32);
    let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
    let [a_address, b_address, c_address] =
        [&a_buffer, &b_buffer, &c_buffer].map(|buffer| buffer.address as usize);
    let [a_layout, b_layout, c_layout, d_layout] = layouts;
    // C and D are one matrix, as in an accumulation.
    let submitted = hipblasLtMatmul(
        context,
        description,
        alpha,
        a_address,
        a_layout,
        b_address,
        b_layout,
        beta,
        c_address,
        c_layout,
        c_address,
        d_layout,
        std::ptr::null(),
        0,
        0,
        0,
    );
    assert_eq!(submitted, 0);
    let found = c_buffer.values();
    let mut right = c.clone();
    for (batch, row, column) in
        (0..2).flat_map(|batch| (0..m).flat_map(move |row| (0..n).map(move |column| (batch, row, column))))
    {
        let a_at = |k: usize| a[batch * a_stride + k * a_leading + row];
        let b_at = |k: usize| b[batch * b_stride + k * b_leading + column];
        let sum: f32 = (0..k).map(|k| a_at(k) * b_at(k)).sum();
        let at = batch * d_stride + column * d_leading + row;
        right[at] = 2.0 * sum - c[at];
    }
    assert_eq!(found, right);
}
