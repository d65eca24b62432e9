#!/usr/bin/env python3
"""Writes a checkpoint of training as a model folder in Hugging Face's form, in bfloat16.

    python tools/train/export.py WORK_FOLDER/checkpoint.pt MODEL_FOLDER [--check]

MODEL_FOLDER already holds tokenizer.json and tokenizer_config.json (prepare.py). `--check` loads the result with transformers
and compares its logits, its chat template and its tokens with those of training.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

import llama
import prepare

BEGIN_ID, END_ID, PAD_ID = 0, 1, 5


def config_of(shape: llama.Shape) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_position_embeddings,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": shape.rms_norm_eps,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "torch_dtype": "bfloat16",
    }


def export(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
    saved = torch.load(checkpoint)
    shape = llama.Shape(**saved["shape"])
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in saved["model"].items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    generation = {
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
    }
    for name, content in (("config.json", config_of(shape)), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(t.numel() for t in tensors.values())} parameters after {saved['tokens_seen']} tokens in {saved['step']} steps")


@torch.no_grad()
def check(folder: pathlib.Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Tell me a story about a fox."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = prepare.render({"messages": messages}) + "<|assistant|>"
    assert text == expected, f"the chat template gives {text!r}, training used {expected!r}"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    assert ids[0, 0] == BEGIN_ID and tokenizer("Hello").input_ids[0] == BEGIN_ID, "a prompt does not begin with the begin token"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    ours = llama.Llama(llama.Shape(**{k: v for k, v in config.items() if k in llama.Shape.__dataclass_fields__}))
    ours.load_state_dict({n: t.float() for n, t in load_file(folder / "model.safetensors").items()})
    difference = (theirs(ids).logits - ours.logits(ids)).abs().max().item()
    print(f"largest difference of logits from transformers: {difference:.1e}")
    assert difference < 1e-3
    output = theirs.generate(ids, max_new_tokens=60, do_sample=False)
    print(tokenizer.decode(output[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    export(args.checkpoint, args.folder)
    if args.check:
        check(args.folder)


if __name__ == "__main__":
    main()
