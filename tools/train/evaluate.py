#!/usr/bin/env python3
"""Measures the perplexity of a model folder on the held-out texts.

    python tools/train/evaluate.py WORK_FOLDER MODEL_FOLDER [--tokens 60000]

Each held-out document is read from its begin token; one longer than the model's context is cut into pieces, and each piece
begins anew behind a begin token. Every token but the begin token counts, the end token too. Weights are the
stored bfloat16 ones, arithmetic is float32. Of the conversations, only documents count that are not in the training text.
"""

import argparse
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import llama
import prepare


@torch.no_grad()
def nats(model: llama.Llama, ids: list[int]) -> float:
    """The sum of -ln p over all tokens of a document but its first."""
    total, context = 0.0, model.shape.max_position_embeddings
    for start in range(1, len(ids), context - 1):
        piece = torch.tensor([ids[0], *ids[start : start + context - 1]])
        logits = model.logits(piece[None, :-1])[0]
        total += F.cross_entropy(logits, piece[1:], reduction="sum").item()
    return total


def documents(work: pathlib.Path, part: str) -> list[dict]:
    if part == "books":
        lines = (work / "books.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[10::20]]
    trained = set()
    for path in sorted(work.glob("chat*.jsonl")):
        if "validation" not in path.name:
            trained |= set(path.read_text(encoding="utf-8").splitlines())
    lines = (work / "chat.validation.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line not in trained]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=60000, help="about how many tokens of each part are read")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = json.loads((args.folder / "config.json").read_text())
    model = llama.Llama(llama.Shape(**{k: v for k, v in config.items() if k in llama.Shape.__dataclass_fields__}))
    model.load_state_dict({n: t.float() for n, t in load_file(args.folder / "model.safetensors").items()})
    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    for part in ("books", "chat"):
        total, tokens, size, count = 0.0, 0, 0, 0
        for document in documents(args.work, part):
            text = prepare.render(document)
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            total += nats(model, ids)
            tokens += len(ids) - 1
            size += len(text.encode()) - sum(text.count(s) * len(s) for s in prepare.SPECIAL)
            count += 1
            if tokens >= args.tokens:
                break
        print(
            f"{part}: {count} documents, {tokens} tokens, {size} bytes: perplexity {math.exp(total / tokens):.2f} per token, "
            f"{math.exp(total / size):.3f} per byte, {total / size / math.log(2):.3f} bits per byte"
        )


if __name__ == "__main__":
    main()
