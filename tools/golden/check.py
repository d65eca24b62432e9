#!/usr/bin/env python3
"""Loads every golden checkpoint as a user would (from_pretrained) and holds the stored results against it."""

import sys

import torch
import transformers
from make import CASES, OUTPUT
from safetensors import safe_open


@torch.no_grad()
def check(name: str) -> float:
    """The largest difference between stored and recomputed logits."""
    with safe_open(OUTPUT / name / "expected.safetensors", "pt") as file:
        expected = {k: file.get_tensor(k) for k in file.keys()}
    model = transformers.AutoModelForCausalLM.from_pretrained(OUTPUT / name, dtype=torch.float32, attn_implementation="eager")
    prompt, greedy = expected["prompt_ids"].long(), expected["greedy_ids"].long()
    tokens = torch.cat([prompt, greedy[:-1]])
    logits = model(tokens[None]).logits[0]
    if not torch.equal(logits[len(prompt) - 1 :].argmax(-1), greedy):
        raise SystemExit(f"{name}: the greedy ids differ")
    return (logits[: len(prompt)] - expected["logits"]).abs().max().item()


def main() -> None:
    worst = 0.0
    for name in sys.argv[1:] or CASES:
        difference = check(name)
        worst = max(worst, difference)
        print(f"{name}: largest difference {difference:.2e}")
    if worst > 1e-4:
        raise SystemExit("the stored results do not belong to these checkpoints")


if __name__ == "__main__":
    main()
