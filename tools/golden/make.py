#!/usr/bin/env python3
"""Writes tiny random-weight checkpoints and what transformers computes with them, in float32 with eager attention.

    pip install torch transformers safetensors numpy
    python tools/golden/make.py [CASE...]

Each case becomes `crates/octet-model/tests/golden/<case>/`: config.json, the weights, and the results
(README.md in this folder says what they contain).
"""

import copy
import dataclasses
import json
import math
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "crates/octet-model/tests/golden"
GREEDY_STEPS = 64
PREFILL_TOLERANCE = 1e-3
SEEDS = 40  # seeds that are tried until a case's greedy text is varied and its choices are clear

GEMMA2, GRANITE, LLAMA, MISTRAL = "gemma2", "granite", "llama", "mistral"
OLMO2, QWEN2, QWEN3 = "olmo2", "qwen2", "qwen3"
SMALL = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclasses.dataclass
class Case:
    """One checkpoint: `config` is laid over SMALL; `rope` is the content of `rope_parameters`."""

    family: str
    config: dict
    rope: dict = dataclasses.field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})
    storage: torch.dtype = torch.bfloat16
    old_spelling: bool = False  # rope_theta and rope_scaling instead of rope_parameters, torch_dtype instead of dtype
    shards: int = 1
    prompt_tokens: int = 32
    std: float = 0.18
    embedding_std: float = 0.3
    hidden: bool = False  # final hidden states are stored too
    extra: dict = dataclasses.field(default_factory=dict)  # laid over config.json when it is written


def rope(kind: str, theta: float = 10000.0, **parameters) -> dict:
    return {"rope_type": kind, "rope_theta": theta, **parameters}


CASES = {
    "gemma2": Case(
        GEMMA2,
        {"num_hidden_layers": 3, "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 20, "sliding_window": 8, "attn_logit_softcapping": 3.0,
         "final_logit_softcapping": 2.5, "vocab_size": 157, "intermediate_size": 72, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
        old_spelling=True,
        prompt_tokens=40,
        embedding_std=0.1,
        hidden=True,
    ),
    "gemma2-no-bounds": Case(
        GEMMA2,
        {"hidden_size": 60, "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 10, "attention_bias": True, "query_pre_attn_scalar": 7, "sliding_window": 5,
         "layer_types": ["full_attention", "sliding_attention"], "attn_logit_softcapping": None, "final_logit_softcapping": None, "vocab_size": 131},
        storage=torch.float32,
    ),
    "granite": Case(
        GRANITE,
        {"embedding_multiplier": 6.5, "residual_multiplier": 0.8, "attention_multiplier": 0.2, "logits_scaling": 0.3, "vocab_size": 149, "intermediate_size": 72, "tie_word_embeddings": True},
        rope("default", 1000000.0),
        old_spelling=True,
        prompt_tokens=40,
        embedding_std=0.1,
        hidden=True,
    ),
    "granite-bias": Case(
        GRANITE,
        {"hidden_size": 60, "num_attention_heads": 6, "num_key_value_heads": 3, "attention_bias": True, "mlp_bias": True, "embedding_multiplier": 2.0, "residual_multiplier": 0.9,
         "attention_multiplier": 0.3, "logits_scaling": 0.5, "vocab_size": 131},
    ),
    "llama-mha": Case(LLAMA, {"num_key_value_heads": 4, "intermediate_size": 64, "vocab_size": 128}, storage=torch.float32, old_spelling=True),
    "llama-gqa-rope-llama3": Case(
        LLAMA,
        {"vocab_size": 192},
        rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        old_spelling=True,
        prompt_tokens=40,
    ),
    "llama-bias-tied": Case(LLAMA, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-head80-vocab517": Case(
        LLAMA, {"vocab_size": 517, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 80, "intermediate_size": 48, "tie_word_embeddings": True}, prompt_tokens=24
    ),
    "llama-head96-one-kv-head": Case(LLAMA, {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 96, "intermediate_size": 48}, prompt_tokens=24),
    "llama-rope-linear": Case(LLAMA, {}, rope("linear", factor=4.0), old_spelling=True),
    "llama-rope-dynamic": Case(LLAMA, {}, rope("dynamic", factor=2.0), old_spelling=True),
    # rope_scaling replaces rope_parameters whole, though that stands here with another base.
    "llama-rope-two-blocks": Case(
        LLAMA,
        {},
        rope("yarn", 500000.0, factor=4.0, original_max_position_embeddings=64),
        extra={
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "rope_scaling": {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 4.0, "original_max_position_embeddings": 64},
        },
    ),
    "llama-tied-other-head": Case(LLAMA, {}, extra={"tie_word_embeddings": True}),
    "llama-rope-yarn": Case(LLAMA, {}, rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=1.0)),
    "llama-f16": Case(LLAMA, {}, storage=torch.float16),
    "llama-sharded": Case(LLAMA, {}, shards=2),
    "mistral-sliding-window": Case(MISTRAL, {"sliding_window": 8}, old_spelling=True, prompt_tokens=40),
    "mistral-nemo-head-dim": Case(MISTRAL, {"sliding_window": None, "head_dim": 32, "num_key_value_heads": 1, "intermediate_size": 64}, rope("default", 1000000.0)),
    "olmo2": Case(OLMO2, {"vocab_size": 150, "intermediate_size": 72}, rope("default", 500000.0), old_spelling=True, prompt_tokens=40),
    "olmo2-bias-one-kv-head": Case(
        OLMO2, {"attention_bias": True, "num_attention_heads": 6, "num_key_value_heads": 1, "hidden_size": 60, "head_dim": 10, "intermediate_size": 88, "vocab_size": 131}
    ),
    "qwen2-tied": Case(QWEN2, {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}, rope("default", 1000000.0), old_spelling=True),
    "qwen2-rope-yarn": Case(QWEN2, {"rms_norm_eps": 1e-6, "max_position_embeddings": 128}, rope("yarn", 1000000.0, factor=4.0, original_max_position_embeddings=32), old_spelling=True, prompt_tokens=40),
    "qwen3": Case(QWEN3, {"head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 64, "rms_norm_eps": 1e-6}, rope("default", 1000000.0), hidden=True),
    "qwen3-f32": Case(QWEN3, {"head_dim": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": True, "intermediate_size": 56}, storage=torch.float32),
}
CONFIGS = {GEMMA2: "Gemma2Config", GRANITE: "GraniteConfig", LLAMA: "LlamaConfig", MISTRAL: "MistralConfig", OLMO2: "Olmo2Config", QWEN2: "Qwen2Config", QWEN3: "Qwen3Config"}
MODELS = {GEMMA2: "Gemma2ForCausalLM", GRANITE: "GraniteForCausalLM", LLAMA: "LlamaForCausalLM", MISTRAL: "MistralForCausalLM", OLMO2: "Olmo2ForCausalLM", QWEN2: "Qwen2ForCausalLM", QWEN3: "Qwen3ForCausalLM"}


def build(case: Case, seed: int) -> torch.nn.Module:
    """A float32 model whose weights are random and exact in the case's storage type."""
    fields = {**SMALL, **case.config, "rope_parameters": copy.deepcopy(case.rope), "attn_implementation": "eager"}
    if case.family in (QWEN2, QWEN3):
        fields["use_sliding_window"] = False
    config = getattr(transformers, CONFIGS[case.family])(**fields)
    model = getattr(transformers, MODELS[case.family])(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = (0 if case.family == GEMMA2 else 1) + 0.2 * noise
        elif "embed" in name:
            value = case.embedding_std * noise
        else:
            value = case.std * noise
        parameter.data = value.to(case.storage).float()
    return model


@torch.no_grad()
def run(model: torch.nn.Module, prompt: list[int]) -> dict:
    """Logits of every prompt position, and greedy decoding with a KV cache."""
    output = model(torch.tensor([prompt]), use_cache=True)
    logits, cache = output.logits[0], output.past_key_values
    row, ids, margins = logits[-1], [], []
    for _ in range(GREEDY_STEPS):
        top = torch.topk(row, 2)
        ids.append(top.indices[0].item())
        margins.append((top.values[0] - top.values[1]).item())
        output = model(torch.tensor([[ids[-1]]]), past_key_values=cache, use_cache=True)
        row, cache = output.logits[0, -1], output.past_key_values
    # The same ids without a cache, in one piece: the cache must not have changed anything.
    whole = model(torch.tensor([prompt + ids[:-1]])).logits[0, len(prompt) - 1 :]
    picked = whole.topk(2).values
    difference = (picked[:, 0] - picked[:, 1] - torch.tensor(margins)).abs().max().item()
    if difference > PREFILL_TOLERANCE:
        raise SystemExit(f"decoding with and without a cache differ by {difference}")
    hidden = model.model(torch.tensor([prompt])).last_hidden_state[0]
    return {"logits": logits, "ids": ids, "margins": margins, "hidden": hidden}


def published(model: torch.nn.Module, case: Case) -> dict:
    """config.json as model makers write it: only what describes the model, in the case's spelling."""
    return described(model, case) | case.extra


def described(model: torch.nn.Module, case: Case) -> dict:
    config = model.config.to_dict()
    keep = set(SMALL) | set(case.config) | {"hidden_act", "model_type", "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "head_dim"}
    result = {"architectures": [MODELS[case.family]]}
    result |= {k: v for k, v in sorted(config.items()) if k in keep and not (k == "head_dim" and "head_dim" not in case.config)}
    storage = str(case.storage).removeprefix("torch.")
    if not case.old_spelling:
        return result | {"dtype": storage, "rope_parameters": case.rope}
    scaling = {k: v for k, v in case.rope.items() if k != "rope_theta"}
    if case.rope["rope_type"] in ("linear", "dynamic"):
        scaling["type"] = scaling.pop("rope_type")  # the oldest spelling
    result["rope_theta"] = case.rope["rope_theta"]
    result["rope_scaling"] = None if case.rope["rope_type"] == "default" else scaling
    return result | {"torch_dtype": storage}


def save_weights(model: torch.nn.Module, case: Case, folder: pathlib.Path) -> None:
    tensors = {n: p.detach().to(case.storage).contiguous() for n, p in model.named_parameters()}
    if case.shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, index = list(tensors), {}
    size = math.ceil(len(names) / case.shards)
    for shard in range(case.shards):
        file = f"model-{shard + 1:05}-of-{case.shards:05}.safetensors"
        part = {n: tensors[n] for n in names[shard * size : (shard + 1) * size]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


def quality(result: dict) -> tuple[int, float]:
    """How good a case is for a test: clear choices first, then many different tokens."""
    clear = sum(margin > 0.01 for margin in result["margins"])
    return min(len(set(result["ids"])), 24) + 4 * clear, min(result["margins"])


def make(name: str, case: Case) -> None:
    vocabulary = {**SMALL, **case.config}["vocab_size"]
    best = None
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(1000 + seed)
        prompt = torch.randint(3, vocabulary, (case.prompt_tokens,), generator=generator).tolist()
        model = build(case, seed)
        result = run(model, prompt)
        if best is None or quality(result) > quality(best[2]):
            best = (seed, prompt, result)
    seed, prompt, result = best
    folder = OUTPUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = build(case, seed)
    save_weights(model, case, folder)
    (folder / "config.json").write_text(json.dumps(published(model, case), indent=2) + "\n")
    expected = {
        "prompt_ids": torch.tensor(prompt, dtype=torch.int32),
        "logits": result["logits"].contiguous(),
        "greedy_ids": torch.tensor(result["ids"], dtype=torch.int32),
        "greedy_margins": torch.tensor(result["margins"]),
    }
    if case.hidden:
        expected["hidden"] = result["hidden"].contiguous()
    metadata = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file(expected, folder / "expected.safetensors", metadata=metadata)
    if case.extra:
        check_as_published(folder, prompt, result)
    size = sum(f.stat().st_size for f in folder.iterdir())
    spread = result["logits"].std(dim=-1).mean().item()
    print(f"{name}: {size // 1024} KiB, seed {seed}, {len(set(result['ids']))} distinct greedy ids, least margin {min(result['margins']):.4f}, logits' deviation {spread:.2f}", flush=True)


@torch.no_grad()
def check_as_published(folder: pathlib.Path, prompt: list[int], result: dict) -> None:
    """transformers itself must read the changed config.json as the model that the results are of."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    logits = model(torch.tensor([prompt])).logits[0]
    difference = (logits - result["logits"]).abs().max().item()
    if difference > PREFILL_TOLERANCE:
        raise SystemExit(f"{folder.name}: transformers reads it differently, by {difference}")


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name, CASES[name])


if __name__ == "__main__":
    main()
