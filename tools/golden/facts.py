#!/usr/bin/env python3
"""Writes what transformers makes of configs in which a fact stands in two files or keys.

    python tools/golden/facts.py

The result is `crates/octet-model/tests/facts.json`: lists of cases, each with its files and the resolved values.
"""

import json
import pathlib
import tempfile

import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "crates/octet-model/tests/facts.json"
FAMILIES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 160,
    "max_position_embeddings": 4096,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}

ROPE = {
    "neither block": {},
    "theta alone": {"rope_theta": 5e5},
    "theta beside a block that states one": {"rope_parameters": PLAIN, "rope_theta": 5e5},
    "theta beside a block that states none": {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 5e5},
    "theta in the block that replaces": {"rope_parameters": PLAIN, "rope_scaling": {**YARN, "rope_theta": 2e6}},
    "theta beside two blocks": {"rope_parameters": PLAIN, "rope_scaling": YARN, "rope_theta": 5e5},
    "the default theta in the block that is replaced": {"rope_parameters": {**PLAIN, "rope_theta": 1e4}, "rope_scaling": YARN},
    "a null block beside": {"rope_parameters": PLAIN, "rope_scaling": None},
    "an empty block beside": {"rope_parameters": PLAIN, "rope_scaling": {}},
    "both names of the type": {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
    "the original length outside the block": {"rope_scaling": YARN, "original_max_position_embeddings": 512},
    "yarn without an original length": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn with a null factor": {"rope_scaling": {**YARN, "factor": None}},
    "yarn with zero betas": {"rope_scaling": {**YARN, "beta_fast": 0, "beta_slow": 0}},
    "yarn with scales": {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0, "truncate": False}},
    "yarn with a factor on attention": {"rope_scaling": {**YARN, "attention_factor": 1.25, "mscale": 0.5, "mscale_all_dim": 1.0}},
    "llama3 without an original length": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    "llama3": {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 512}, "rope_theta": 5e5},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 512}},
}
WINDOWS = {
    "mistral's default": ("mistral", {}),
    "mistral without": ("mistral", {"sliding_window": None}),
    "mistral with": ("mistral", {"sliding_window": 8}),
    "llama heeds none": ("llama", {"sliding_window": 8}),
    "qwen2 off": ("qwen2", {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 1}),
    "qwen2 on": ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3 without the flag": ("qwen3", {"sliding_window": 8, "max_window_layers": 0}),
    "qwen3 by list": (
        "qwen3",
        {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen3 by list but off": ("qwen3", {"sliding_window": 8, "use_sliding_window": False, "layer_types": ["sliding_attention"] * 3}),
}
DTYPES = {
    "both": {"dtype": "float16", "torch_dtype": "bfloat16"},
    "the old name": {"torch_dtype": "float16"},
    "the new name": {"dtype": "float32"},
}
EOS = {
    "generation_config.json wins": ({"eos_token_id": 33}, {"eos_token_id": 1}),
    "a list wins over a number": ({"eos_token_id": 33}, {"eos_token_id": [5, 7]}),
    "no generation_config.json": ({"eos_token_id": [33, 34]}, None),
}


def folder(family: str, config: dict, generation: dict | None = None) -> tuple[str, dict]:
    """A folder with the files, and the config as it stands there."""
    path = tempfile.mkdtemp()
    config = {"architectures": [FAMILIES[family]], "model_type": family, **SMALL, **config}
    (pathlib.Path(path) / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (pathlib.Path(path) / "generation_config.json").write_text(json.dumps(generation))
    return path, config


def rope(name: str, change: dict) -> dict:
    path, config = folder("llama", change)
    rotary = LlamaRotaryEmbedding(transformers.AutoConfig.from_pretrained(path))
    frequencies = rotary.inv_freq.double().tolist()
    return {"name": name, "config": config, "inverse_frequencies": frequencies, "magnitude": rotary.attention_scaling}


def windows(name: str, family: str, change: dict) -> dict:
    path, config = folder(family, change)
    read = transformers.AutoConfig.from_pretrained(path)
    window = getattr(read, "sliding_window", None) if family != "llama" else None
    kinds = read.layer_types if family.startswith("qwen") else ["sliding_attention"] * read.num_hidden_layers
    return {"name": name, "config": config, "windows": [window if kind == "sliding_attention" else None for kind in kinds]}


def dtype(name: str, change: dict) -> dict:
    path, config = folder("llama", change)
    return {"name": name, "config": config, "dtype": str(transformers.AutoConfig.from_pretrained(path).dtype).removeprefix("torch.")}


def eos(name: str, change: dict, generation: dict | None) -> dict:
    path, config = folder("llama", change, generation)
    try:
        ids = transformers.GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        ids = transformers.GenerationConfig.from_model_config(transformers.AutoConfig.from_pretrained(path)).eos_token_id
    return {"name": name, "config": config, "generation_config": generation, "eos_token_ids": ids if isinstance(ids, list) else [ids]}


def main() -> None:
    facts = {
        "transformers": transformers.__version__,
        "rope": [rope(name, change) for name, change in ROPE.items()],
        "windows": [windows(name, *case) for name, case in WINDOWS.items()],
        "dtype": [dtype(name, change) for name, change in DTYPES.items()],
        "eos": [eos(name, *case) for name, case in EOS.items()],
    }
    OUTPUT.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{OUTPUT}: {sum(len(cases) for cases in facts.values() if isinstance(cases, list))} cases")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
