#!/usr/bin/env python3
"""Writes samples from a checkpoint of training, or from a finished model folder.

    python tools/train/sample.py WORK_FOLDER/checkpoint.pt MODEL_FOLDER [--temperature 0.8 --top-k 20] [--chat TEXT | --text TEXT]...
"""

import argparse
import pathlib

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import llama

CHAT = ["Hello!", "Who are you?", "What is FP8?", "What is the KV cache?", "Tell me a story about a fox.", "Write a haiku about the moon.", "List three fruits.", "What colour is the sky?", "What is 3 + 4?", "How do I make tea?", "What is the capital of France?", "Why is music important?"]
TEXT = ["Write a haiku about artificial intelligence", "Once upon a time", "San Francisco is a", "The capital of Germany is", "The king looked at his daughter and", "The future of artificial intelligence is"]


@torch.no_grad()
def complete(model: llama.Llama, tokenizer: Tokenizer, prompt: str, options: argparse.Namespace) -> str:
    tokens = tokenizer.encode(prompt, add_special_tokens=False).ids
    end, start = tokenizer.token_to_id("<|end|>"), len(tokens)
    while len(tokens) < start + options.max_tokens:
        row = model.logits(torch.tensor([tokens]))[0, -1]
        if options.temperature == 0:
            token = row.argmax().item()
        else:
            values, ids = torch.topk(row / options.temperature, options.top_k)
            token = ids[torch.multinomial(values.softmax(0), 1)].item()
        if token == end:
            return tokenizer.decode(tokens[start:], skip_special_tokens=False) + " <end>"
        tokens.append(token)
    return tokenizer.decode(tokens[start:], skip_special_tokens=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=110)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chat", action="append", default=[])
    parser.add_argument("--text", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    if options.weights.suffix == ".safetensors":
        model = llama.Llama(llama.Shape())
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(options.weights).items()})
    else:
        saved = torch.load(options.weights)
        model = llama.Llama(llama.Shape(**saved["shape"]))
        model.load_state_dict(saved["model"])
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    given = options.chat or options.text
    for question in options.chat if given else CHAT:
        answer = complete(model, tokenizer, f"<|begin|><|user|>{question}<|end|><|assistant|>", options)
        print(f"[user] {question}\n[model] {answer}\n")
    for text in options.text if given else TEXT:
        print(f"[text] {text}>>>{complete(model, tokenizer, '<|begin|>' + text, options)}\n")


if __name__ == "__main__":
    main()
