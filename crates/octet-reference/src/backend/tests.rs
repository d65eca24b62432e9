use std::sync::Mutex;

use octet_backend::{TensorRole, WeightScale, WeightView};

use super::*;

fn tensor(backend: &mut ReferenceBackend, columns: usize, values: &[f32]) -> ReferenceTensor {
    let spec = TensorSpec { role: TensorRole::Activation, rows: 4, columns };
    let mut tensor = backend.allocate(spec).unwrap();
    backend.write_tensor(&mut tensor, values).unwrap();
    tensor
}

fn weight(
    backend: &mut ReferenceBackend,
    usage: LinearUse,
    parts: &[&[f32]],
    columns: usize,
) -> ReferenceLinear {
    weight_with_bias(backend, usage, parts, columns, None)
}

fn weight_with_bias(
    backend: &mut ReferenceBackend,
    usage: LinearUse,
    parts: &[&[f32]],
    columns: usize,
    bias: Option<Vec<f32>>,
) -> ReferenceLinear {
    let bytes: Vec<Vec<u8>> =
        parts.iter().map(|part| part.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let parts: Vec<LinearPart<'_>> = bytes
        .iter()
        .map(|bytes| LinearPart {
            weight: WeightView {
                bytes,
                data_type: DataType::F32,
                rows: bytes.len() / 4 / columns,
                columns,
                row_stride: columns,
            },
            scale: WeightScale::None,
        })
        .collect();
    let spec = LinearSpec { data_type: DataType::F32, usage, bias, input_scale: None };
    backend.load_linear(spec, &parts).unwrap()
}

/// A batch of one sequence with these tokens.
fn begin(backend: &mut ReferenceBackend, tokens: &[u32], output_rows: &[u32]) {
    let mut batch = Batch::default();
    batch.push_sequence(tokens, 0, &[0]);
    batch.output_rows.extend_from_slice(output_rows);
    backend.begin_step(&batch).unwrap();
}

#[test]
fn embedding_copies_the_rows_of_the_table() {
    let mut backend = ReferenceBackend::new();
    let table = weight(&mut backend, LinearUse::Embed, &[&[1.0, 2.0, 3.0, 4.0]], 2);
    let mut output = tensor(&mut backend, 2, &[]);
    begin(&mut backend, &[1, 0, 1], &[]);
    backend.embed(&table, 1.0, &mut output).unwrap();
    assert_eq!(backend.read_tensor(&output, 3).unwrap(), [3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    begin(&mut backend, &[2], &[]);
    let error = backend.embed(&table, 1.0, &mut output).unwrap_err();
    assert_eq!(error, BackendError::Limit { what: "a token id", value: 2, limit: 1 });
}

#[test]
fn a_linear_multiplies_and_adds_its_bias() {
    let mut backend = ReferenceBackend::new();
    let bias = Some(vec![10.0, 20.0, 30.0]);
    let parts: [&[f32]; 2] = [&[1.0, 0.0, 1.0, 1.0], &[2.0, -1.0]];
    let weight = weight_with_bias(&mut backend, LinearUse::Multiply, &parts, 2, bias);
    assert_eq!(backend.linear_bytes(&weight), (6 + 3) * 4);
    let input = tensor(&mut backend, 2, &[1.0, 2.0, 3.0, 4.0]);
    let mut output = tensor(&mut backend, 3, &[]);
    begin(&mut backend, &[0, 0], &[]);
    backend.linear(&weight, &input, &mut output).unwrap();
    assert_eq!(backend.read_tensor(&output, 2).unwrap(), [11.0, 23.0, 30.0, 13.0, 27.0, 32.0]);
    backend.linear(&weight, &input, &mut output).unwrap();
    assert_eq!(
        backend.read_tensor(&output, 2).unwrap(),
        [11.0, 23.0, 30.0, 13.0, 27.0, 32.0],
        "it only writes"
    );
}

#[test]
fn sums_are_rounded_once() {
    let mut backend = ReferenceBackend::new();
    // In f32, 2^25 + 1 is 2^25: the ones would be lost.
    let big = 33_554_432.0;
    let weight = weight(&mut backend, LinearUse::Multiply, &[&[1.0, 1.0, 1.0, 1.0]], 4);
    let input = tensor(&mut backend, 4, &[big, 1.0, 1.0, -big]);
    let mut output = tensor(&mut backend, 1, &[]);
    begin(&mut backend, &[0], &[]);
    backend.linear(&weight, &input, &mut output).unwrap();
    assert_eq!(backend.read_tensor(&output, 1).unwrap(), [2.0]);
}

#[test]
fn a_gate_is_activated_and_multiplied() {
    let mut backend = ReferenceBackend::new();
    let weight = weight(&mut backend, LinearUse::Gated, &[&[1.0], &[3.0]], 1);
    let input = tensor(&mut backend, 1, &[0.0, 2.0, -1.0, -1000.0]);
    let mut output = tensor(&mut backend, 1, &[]);
    begin(&mut backend, &[0; 4], &[]);
    backend.gated_linear(&weight, Activation::Silu, &input, &mut output).unwrap();
    // silu(2) = 1.761594156, silu(-1) = -0.268941421.
    let expected = [0.0, 10.569_565, 0.806_824_3, 0.0];
    for (found, expected) in backend.read_tensor(&output, 4).unwrap().into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    backend.gated_linear(&weight, Activation::GeluTanh, &input, &mut output).unwrap();
    // gelu_tanh(2) = 1.954597694, gelu_tanh(-1) = -0.158808009.
    let expected = [0.0, 11.727_586, 0.476_424_03, 0.0];
    for (found, expected) in backend.read_tensor(&output, 4).unwrap().into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn a_branch_is_normalised_scaled_added_and_the_sum_normalised() {
    let mut backend = ReferenceBackend::new();
    let norm = backend.load_vector(&[1.0, 2.0]).unwrap();
    let mut residual = tensor(&mut backend, 2, &[1.0, 1.0]);
    let branch = tensor(&mut backend, 2, &[1.0, 1.5]);
    let mut output = tensor(&mut backend, 2, &[]);
    begin(&mut backend, &[0], &[]);
    let norm = Norm { weight: &norm, epsilon: 3.5 };
    let residual_mut = &mut residual;
    let join = Join {
        residual: residual_mut,
        branch: &branch,
        post_norm: None,
        scale: 2.0,
        next: Some((norm, &mut output)),
    };
    backend.join(join).unwrap();
    // The sum is [3, 4], its mean square 12.5, the root with epsilon 4.
    assert_eq!(backend.read_tensor(&residual, 1).unwrap(), [3.0, 4.0]);
    assert_eq!(backend.read_tensor(&output, 1).unwrap(), [0.75, 2.0]);
    let branch = tensor(&mut backend, 2, &[3.0, 4.0]);
    let join =
        Join { residual: &mut residual, branch: &branch, post_norm: Some(norm), scale: 2.0, next: None };
    backend.join(join).unwrap();
    assert_eq!(backend.read_tensor(&residual, 1).unwrap(), [4.5, 8.0]);
}

#[test]
fn logits_are_those_of_the_gathered_rows() {
    let mut backend = ReferenceBackend::new();
    let hidden = tensor(&mut backend, 1, &[1.0, -2.0, 3.0, -4.0]);
    let mut gathered = tensor(&mut backend, 1, &[]);
    let mut scratch = tensor(&mut backend, 1, &[]);
    let mut logits = tensor(&mut backend, 2, &[]);
    let norm = backend.load_vector(&[2.0]).unwrap();
    let head = weight(&mut backend, LinearUse::EmbedAndMultiply, &[&[1.0, -3.0]], 1);
    begin(&mut backend, &[0; 4], &[0, 1, 3]);
    backend.gather_rows(1..3, &hidden, &mut gathered).unwrap();
    assert_eq!(backend.read_tensor(&gathered, 2).unwrap(), [-2.0, -4.0]);
    let operands =
        RmsNorm { input: &gathered, norm: Norm { weight: &norm, epsilon: 0.0 }, output: &mut scratch };
    backend.logits(2, operands, Head { weight: &head, scale: 1.0, cap: None }, &mut logits).unwrap();
    let visited = Mutex::new(Vec::new());
    backend
        .map_logits(&mut logits, 2, &|row, values| {
            visited.lock().unwrap().push((row, values.to_vec()));
            values[0] = 7.0;
        })
        .unwrap();
    assert_eq!(visited.into_inner().unwrap(), [(0, vec![-2.0, 6.0]), (1, vec![-2.0, 6.0])]);
    assert_eq!(backend.read_tensor(&logits, 1).unwrap(), [7.0, 6.0]);
}

#[test]
fn limits_are_errors() {
    let mut backend = ReferenceBackend::new();
    let mut small = tensor(&mut backend, 1, &[]);
    let mut batch = Batch::default();
    batch.push_sequence(&[0; 5], 0, &[0]);
    let error = backend.begin_step(&batch).unwrap_err();
    assert_eq!(error, BackendError::Limit { what: "the batch's number of rows", value: 5, limit: 4 });
    let error = backend.write_tensor(&mut small, &[0.0; 5]).unwrap_err();
    assert_eq!(error, BackendError::Limit { what: "the number of values", value: 5, limit: 4 });
    let spec = TensorSpec { role: TensorRole::Logits, rows: usize::MAX, columns: 2 };
    assert!(matches!(backend.allocate(spec), Err(BackendError::OutOfMemory { .. })));
}

#[test]
#[should_panic(expected = "the linear's input is [4, 3] where at least 1 rows of 2 columns were expected")]
fn a_tensor_of_another_shape_is_a_fault_of_the_model() {
    let mut backend = ReferenceBackend::new();
    let weight = weight(&mut backend, LinearUse::Multiply, &[&[1.0, 2.0]], 2);
    let input = tensor(&mut backend, 3, &[]);
    let mut output = tensor(&mut backend, 1, &[]);
    begin(&mut backend, &[0], &[]);
    let _ = backend.linear(&weight, &input, &mut output);
}

#[test]
fn inputs_are_quantized_where_the_weight_says_how() {
    use octet_backend::InputScale;
    // Weights of 1 and 0: the first feature reads the first input, the second both.
    let codes = [0x38, 0, 0x38, 0x38];
    let format = DataType::F8(Float8Format::E4M3);
    let view = WeightView { bytes: &codes, data_type: format, rows: 2, columns: 2, row_stride: 2 };
    let part = LinearPart { weight: view, scale: WeightScale::Tensor(2.0) };
    let run = |mut backend: ReferenceBackend, input_scale, input: [f32; 2]| {
        let spec = LinearSpec { data_type: format, usage: LinearUse::Multiply, bias: None, input_scale };
        let weight = backend.load_linear(spec, &[part]).unwrap();
        let mut tensor =
            || backend.allocate(TensorSpec { role: TensorRole::Activation, rows: 1, columns: 2 }).unwrap();
        let (mut source, mut output) = (tensor(), tensor());
        backend.write_tensor(&mut source, &input).unwrap();
        let mut batch = Batch::default();
        batch.push_sequence(&[0], 0, &[1]);
        backend.begin_step(&batch).unwrap();
        backend.linear(&weight, &source, &mut output).unwrap();
        backend.read_tensor(&output, 1).unwrap()
    };
    let scale = Some(InputScale::Static(0.5));
    assert_eq!(run(ReferenceBackend::new(), scale, [1.06, 3.0]), [2.12, 8.12]);
    // 2.12 lies between the codes 2 and 2.25; 1000 is clamped to 448.
    assert_eq!(run(ReferenceBackend::with_float8_inputs(), scale, [1.06, 3.0]), [2.0, 8.0]);
    assert_eq!(run(ReferenceBackend::with_float8_inputs(), scale, [500.0, 0.0]), [448.0, 448.0]);
    // The largest of the row becomes 448, exactly.
    let dynamic = Some(InputScale::Dynamic);
    assert_eq!(run(ReferenceBackend::with_float8_inputs(), dynamic, [448.0, 17.1]), [896.0, 932.0]);
    assert_eq!(run(ReferenceBackend::with_float8_inputs(), None, [1.0, 17.1]), [2.0, 36.2]);
}
