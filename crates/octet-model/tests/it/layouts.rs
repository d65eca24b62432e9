//! Layouts of codes with scales: each must give the logits of the same checkpoint with its weights dequantized by hand.

use octet_cpu::Isa;
use octet_float8::E4M3;
use octet_float8::Float8;
use octet_float8::scale::{self, Blocking, Shape};
use octet_model::{LoadOptions, OnlineQuantization};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::support::{Draft, EXACT, Golden, Tensor, cpu_with, distance, limits, logits, spread};

const CASE: &str = "llama-gqa-rope-llama3";
/// Divides neither rows nor columns of any linear of the case.
const BLOCK: Shape = Shape { rows: 24, columns: 40 };

#[derive(Clone, Copy, PartialEq)]
enum Scales {
    Tensor,
    /// `[rows, 1]`.
    ChannelColumn,
    /// `[rows]`.
    Channel,
    Block,
}

/// A linear quantized, and what its codes mean.
struct Quantized {
    codes: Vec<u8>,
    scales: Tensor,
    values: Vec<f32>,
}

fn quantize(weight: &Tensor, how: Scales) -> Quantized {
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let numbers = weight.numbers();
    let mut codes = vec![0; numbers.len()];
    let blocking = Blocking { matrix: Shape { rows, columns }, block: BLOCK };
    let grid = blocking.scales().unwrap();
    let scales = match how {
        Scales::Tensor => vec![scale::quantize_tensor::<E4M3, f32>(&numbers, &mut codes).unwrap()],
        Scales::Channel | Scales::ChannelColumn => {
            let mut scales = vec![0.0; rows];
            scale::quantize_rows::<E4M3, f32>(&numbers, columns, &mut codes, &mut scales).unwrap();
            scales
        }
        Scales::Block => {
            let mut scales = vec![0.0; grid.rows * grid.columns];
            scale::quantize_blocks::<E4M3, f32>(&numbers, blocking, &mut codes, &mut scales).unwrap();
            scales
        }
    };
    let scale_of = |index: usize| {
        let (row, column) = (index / columns, index % columns);
        match how {
            Scales::Tensor => scales[0],
            Scales::Channel | Scales::ChannelColumn => scales[row],
            Scales::Block => scales[row / BLOCK.rows * grid.columns + column / BLOCK.columns],
        }
    };
    let decode = |(index, &code): (usize, &u8)| E4M3::from_bits(code).to_f32() * scale_of(index);
    let values = codes.iter().enumerate().map(decode).collect();
    let shape: &[usize] = match how {
        Scales::Tensor => &[],
        Scales::ChannelColumn => &[rows, 1],
        Scales::Channel => &[rows],
        Scales::Block => &[grid.rows, grid.columns],
    };
    Quantized { scales: Tensor::f32(shape, &scales), codes, values }
}

/// The same in eight-bit integers.
fn quantize_to_integers(weight: &Tensor, how: Scales) -> Quantized {
    let columns = weight.shape[1];
    let numbers = weight.numbers();
    let largest = |numbers: &[f32]| numbers.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let shared = largest(&numbers) / 127.0;
    let scales: Vec<f32> = match how {
        Scales::Tensor => numbers.chunks(columns).map(|_| shared).collect(),
        _ => numbers.chunks(columns).map(|row| largest(row) / 127.0).collect(),
    };
    let code = |(index, value): (usize, &f32)| (value / scales[index / columns]).round() as i8;
    let codes: Vec<i8> = numbers.iter().enumerate().map(code).collect();
    let value = |(index, &code): (usize, &i8)| f32::from(code) * scales[index / columns];
    let values = codes.iter().enumerate().map(value).collect();
    let scales = match how {
        Scales::Tensor => Tensor::f32(&[1], &[shared]),
        _ => Tensor::f32(&[scales.len(), 1], &scales),
    };
    Quantized { codes: codes.into_iter().map(i8::cast_unsigned).collect(), scales, values }
}

fn run(draft: &Draft, options: LoadOptions) -> Vec<f32> {
    let model = draft.load_with(options).unwrap();
    assert_eq!(model.warnings(), []);
    let mut runner = model.into_runner(limits(128)).unwrap();
    logits(&mut runner, &Golden::read(&draft.case).prompt, usize::MAX / 2)
}

/// Holds every instruction set of this machine to the expected logits.
fn agrees_on_cpu(draft: &Draft, options: LoadOptions, expected: &[f32], what: &str) {
    for isa in Isa::available() {
        // Dot products of bfloat16 round their inputs to eight bits, which is 0.1 % of each on average and adds up from
        // linear to linear; the others multiply in 32.
        let tolerance = if matches!(isa.name(), "avx512bf16" | "amx") { 2e-2 } else { 1e-4 };
        let mut runner = draft.load_on(cpu_with(isa), options).unwrap().into_runner(limits(128)).unwrap();
        let found = logits(&mut runner, &Golden::read(&draft.case).prompt, usize::MAX / 2);
        let differences: Vec<f32> =
            found.iter().zip(expected).map(|(found, expected)| found - expected).collect();
        let difference = spread(&differences) / spread(expected);
        assert!(difference < tolerance, "{what} with {}: {difference}", isa.name());
    }
}

/// How a layout names things.
struct Layout {
    config: Value,
    /// Codes are integers instead of E4M3.
    is_int8: bool,
    scales: Scales,
    scale_name: &'static str,
    input_scale: Option<&'static str>,
    /// Linears that stay as they are.
    ignored: &'static [&'static str],
}

/// Checks a layout with norms before and after, of heads and of all of them.
fn check(name: &str, layout: &Layout) {
    for case in [CASE, "olmo2", "gemma2", "granite"] {
        check_case(case, &format!("{case}, {name}"), layout);
    }
}

/// Writes a checkpoint in a layout and its dequantized twin, and compares their logits.
fn check_case(case: &str, name: &str, layout: &Layout) {
    let mut stored = Draft::of(case);
    let mut twin = stored.clone();
    stored.config["quantization_config"] = layout.config.clone();
    for linear in stored.linears() {
        if layout.ignored.iter().any(|ignored| linear.contains(ignored)) {
            continue;
        }
        let weight = format!("{linear}.weight");
        let shape = stored.tensors[&weight].shape.clone();
        let quantize = if layout.is_int8 { quantize_to_integers } else { quantize };
        let quantized = quantize(&stored.tensors[&weight], layout.scales);
        let element = if layout.is_int8 { Dtype::I8 } else { Dtype::F8_E4M3 };
        twin.tensors.insert(weight.clone(), Tensor::f32(&shape, &quantized.values));
        stored.tensors.insert(weight, Tensor { element, shape, bytes: quantized.codes });
        stored.tensors.insert(format!("{linear}.{}", layout.scale_name), quantized.scales);
        if let Some(name) = layout.input_scale {
            stored.tensors.insert(format!("{linear}.{name}"), Tensor::f32(&[], &[0.0625]));
        }
    }
    let (found, expected) = (run(&stored, EXACT), run(&twin, EXACT));
    let exact = Golden::read(case).logits;
    assert!(
        distance(&found, &expected) / spread(&expected) < 1e-5,
        "{name}: {}",
        distance(&found, &expected)
    );
    agrees_on_cpu(&stored, EXACT, &expected, name);
    assert!(distance(&exact, &expected) / spread(&expected) > 1e-3, "{name}: the test quantized nothing");
}

#[test]
fn fp8_layout() {
    let base = json!({ "quant_method": "fp8", "activation_scheme": "dynamic" });
    let layout = |config: Value, scales, scale_name, input_scale, ignored| Layout {
        config,
        is_int8: false,
        scales,
        scale_name,
        input_scale,
        ignored,
    };
    check("dynamic", &layout(base.clone(), Scales::Tensor, "weight_scale", None, &[]));
    let mut config = base.clone();
    config["activation_scheme"] = json!("static");
    check("static", &layout(config.clone(), Scales::Tensor, "weight_scale", Some("input_scale"), &[]));
    config["weight_block_size"] = json!(null);
    config["modules_to_convert"] = json!(null);
    config["scale_fmt"] = json!("float");
    let names = layout(config, Scales::Tensor, "weight_scale_inv", Some("activation_scale"), &[]);
    check("transformers' names", &names);
    let mut config = base.clone();
    config["weight_block_size"] = json!([BLOCK.rows, BLOCK.columns]);
    check("block", &layout(config, Scales::Block, "weight_scale_inv", None, &[]));
    let mut config = base.clone();
    config["modules_to_not_convert"] = json!(["lm_head", "model.layers.1.mlp"]);
    check("ignored by its module", &layout(config, Scales::Tensor, "weight_scale", None, &["layers.1.mlp"]));
    let mut config = base;
    let mlp = ["gate_proj", "up_proj", "down_proj"].map(|name| format!("model.layers.1.mlp.{name}"));
    config["ignored_layers"] = json!(mlp);
    check("ignored", &layout(config, Scales::Tensor, "weight_scale", None, &["layers.1.mlp"]));
}

fn compressed(weights: &Value, input: &Value, ignore: &Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ignore,
        "config_groups": { "group_0": {
            "targets": ["Linear"], "weights": weights, "input_activations": input, "output_activations": null,
        } },
    })
}

#[test]
fn compressed_tensors_layout() {
    let float =
        |strategy: &str| json!({ "num_bits": 8, "type": "float", "symmetric": true, "strategy": strategy });
    let dynamic = json!({ "num_bits": 8, "type": "float", "dynamic": true, "strategy": "token" });
    let fixed = json!({ "num_bits": 8, "type": "float", "dynamic": false, "strategy": "tensor" });
    let layout = |config, scales, has_input_scale: bool, ignored| Layout {
        config,
        is_int8: false,
        scales,
        scale_name: "weight_scale",
        input_scale: has_input_scale.then_some("input_scale"),
        ignored,
    };
    let head = json!(["lm_head"]);
    check("static", &layout(compressed(&float("tensor"), &fixed, &head), Scales::Tensor, true, &[]));
    let config = compressed(&float("channel"), &dynamic, &head);
    check("channel", &layout(config, Scales::ChannelColumn, false, &[]));
    let mut block = float("block");
    block["block_structure"] = json!([BLOCK.rows, BLOCK.columns]);
    check("block", &layout(compressed(&block, &dynamic, &head), Scales::Block, false, &[]));
    let ignore = json!(["re:.*lm_head", "re:.*layers\\.0\\.self_attn.*"]);
    let config = compressed(&float("channel"), &Value::Null, &ignore);
    check("weights only", &layout(config, Scales::ChannelColumn, false, &["layers.0.self_attn"]));
}

#[test]
fn compressed_tensors_in_integers() {
    let integers =
        |strategy: &str| json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy });
    let dynamic =
        json!({ "num_bits": 8, "type": "int", "symmetric": true, "dynamic": true, "strategy": "token" });
    let fixed = json!({ "num_bits": 8, "type": "int", "dynamic": false, "strategy": "tensor" });
    let layout = |weights: &Value, input: &Value, scales, input_scale| {
        let mut config = compressed(weights, input, &json!(["lm_head"]));
        config["format"] = json!("int-quantized");
        Layout { config, is_int8: true, scales, scale_name: "weight_scale", input_scale, ignored: &[] }
    };
    check("W8A8", &layout(&integers("channel"), &dynamic, Scales::ChannelColumn, None));
    check("static", &layout(&integers("tensor"), &fixed, Scales::Tensor, Some("input_scale")));
    check("weights only", &layout(&integers("channel"), &Value::Null, Scales::ChannelColumn, None));
}

#[test]
fn quark_layout() {
    let spec = |scheme: &str, dynamic: bool| json!({ "dtype": "fp8_e4m3", "qscheme": scheme, "is_dynamic": dynamic });
    let config = |weight: Value, input: Value| {
        json!({
            "quant_method": "quark", "export": { "weight_format": "real_quantized", "kv_cache_group": [] },
            "global_quant_config": { "weight": weight, "input_tensors": input },
            "layer_quant_config": {}, "exclude": ["lm_head"],
        })
    };
    let layout = |config, scales, has_input_scale: bool, ignored| Layout {
        config,
        is_int8: false,
        scales,
        scale_name: "weight_scale",
        input_scale: has_input_scale.then_some("input_scale"),
        ignored,
    };
    let fixed = config(spec("per_tensor", false), spec("per_tensor", false));
    check("static", &layout(fixed, Scales::Tensor, true, &[]));
    let channel = config(spec("per_channel", false), spec("per_token", true));
    check("channel", &layout(channel, Scales::Channel, false, &[]));
    let mut by_layer = config(spec("per_tensor", false), spec("per_tensor", true));
    by_layer["layer_quant_config"] = json!({ "*.self_attn.*": { "weight": null, "input_tensors": null } });
    check("by layer", &layout(by_layer, Scales::Tensor, false, &["self_attn"]));
}

#[test]
fn modelopt_layout() {
    let config = |algorithm: &str| {
        json!({ "quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head", "*layers.0.self_attn*"],
            "producer": { "name": "modelopt", "version": "0.29" }, "kv_cache_scheme": null })
    };
    let layout = |algorithm, scales, input_scale| Layout {
        config: config(algorithm),
        is_int8: false,
        scales,
        scale_name: "weight_scale",
        input_scale,
        ignored: &["layers.0.self_attn"],
    };
    check("static", &layout("FP8", Scales::Tensor, Some("input_scale")));
    check("channel", &layout("FP8_PER_CHANNEL_PER_TOKEN", Scales::Channel, None));
}

/// What `--quantization` makes, against the same made by hand.
#[test]
fn online_quantization() {
    for how in [OnlineQuantization::Tensor, OnlineQuantization::Channel, OnlineQuantization::Block] {
        let draft = Draft::of(CASE);
        let mut twin = draft.clone();
        for prefix in ["model.layers.0", "model.layers.1"] {
            for parts in [
                &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"][..],
                &["self_attn.o_proj"],
                &["mlp.gate_proj", "mlp.up_proj"],
                &["mlp.down_proj"],
            ] {
                let names: Vec<_> = parts.iter().map(|part| format!("{prefix}.{part}.weight")).collect();
                let largest = names.iter().flat_map(|name| draft.tensors[name].numbers());
                let largest = largest.fold(0.0f32, |largest, value| largest.max(value.abs()));
                for name in &names {
                    let weight = &draft.tensors[name];
                    let values = dequantized(weight, how, largest / 448.0);
                    twin.tensors.insert(name.clone(), Tensor::f32(&weight.shape, &values));
                }
            }
        }
        let found = run(&draft, LoadOptions { quantization: Some(how), ..EXACT });
        let expected = run(&twin, EXACT);
        assert!(distance(&found, &expected) / spread(&expected) < 1e-5, "{how:?}");
        let options = LoadOptions { quantization: Some(how), ..EXACT };
        agrees_on_cpu(&draft, options, &expected, &format!("{how:?}"));
    }
}

/// All linears of the case are smaller than a block of 128 x 128, so that a block is a whole part.
fn dequantized(weight: &Tensor, how: OnlineQuantization, shared: f32) -> Vec<f32> {
    let (numbers, columns) = (weight.numbers(), weight.shape[1]);
    let mut codes = vec![0; numbers.len()];
    let scales = match how {
        OnlineQuantization::Tensor => {
            scale::quantize_with_scale::<E4M3, f32>(&numbers, shared, &mut codes).unwrap();
            vec![shared; weight.shape[0]]
        }
        OnlineQuantization::Channel => {
            let mut scales = vec![0.0; weight.shape[0]];
            scale::quantize_rows::<E4M3, f32>(&numbers, columns, &mut codes, &mut scales).unwrap();
            scales
        }
        OnlineQuantization::Block => {
            let blocking = Blocking::of_128(Shape { rows: weight.shape[0], columns });
            let mut scales = [0.0];
            scale::quantize_blocks::<E4M3, f32>(&numbers, blocking, &mut codes, &mut scales).unwrap();
            vec![scales[0]; weight.shape[0]]
        }
    };
    let decode = |(index, &code): (usize, &u8)| E4M3::from_bits(code).to_f32() * scales[index / columns];
    codes.iter().enumerate().map(decode).collect()
}

/// The head too, tied or not: look-ups keep the 16-bit table.
#[test]
fn the_head_can_be_quantized_too() {
    for case in ["llama-gqa-rope-llama3", "qwen2-tied"] {
        let golden = Golden::read(case);
        let draft = Draft::of(case);
        let head = ["lm_head.weight", "model.embed_tokens.weight"];
        let head = head.into_iter().find(|name| draft.tensors.contains_key(*name)).unwrap();
        let values = dequantized(&draft.tensors[head], OnlineQuantization::Channel, 0.0);
        let mut twin = draft.clone();
        twin.config["tie_word_embeddings"] = json!(false);
        twin.tensors.insert("lm_head.weight".to_owned(), Tensor::f32(&draft.tensors[head].shape, &values));
        let run = |draft: &Draft, quantize_head| {
            let model = draft.load_with(LoadOptions { quantize_head, ..EXACT }).unwrap();
            let mut runner = model.into_runner(limits(128)).unwrap();
            logits(&mut runner, &golden.prompt, usize::MAX / 2)
        };
        let (found, expected) = (run(&draft, true), run(&twin, false));
        assert!(distance(&found, &expected) / spread(&expected) < 1e-5, "{case}");
        assert!(distance(&found, &golden.logits) / spread(&expected) > 1e-3, "{case}: nothing was quantized");
    }
}
