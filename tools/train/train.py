#!/usr/bin/env python3
"""Trains the model that ships with the project.

    python tools/train/train.py WORK_FOLDER --minutes 80 --threads 2

Reads `WORK_FOLDER/tokens` (see prepare.py) and writes `WORK_FOLDER/checkpoint.pt` every few minutes; a rerun goes on
from there. The schedule follows the clock, not the number of steps: the learning rate falls to zero at the end of
the given time, whatever the speed of the machine. `--end HH:MM` names the end instead.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import signal
import time

import numpy as np
import torch

import llama
import optimizer

BOS = 0
# (share of the time at which the phase begins, length of a sequence, sequences in a batch)
PHASES = [(0.0, 512, 4), (0.93, 1024, 2)]


class Corpus:
    """Token streams by part, and where their documents begin; windows are drawn at random by weight."""

    def __init__(self, folder: pathlib.Path, weights: dict[str, float]):
        self.folder, self.weights, self.stamp = folder, weights, None
        self.reload()

    def reload(self) -> None:
        """Reads the files again if they changed, so that text can be improved while training runs."""
        stamp = [(self.folder / f"{part}.bin").stat().st_mtime for part in self.weights]
        if stamp != self.stamp:
            self.stamp = stamp
            self.tokens = {p: np.fromfile(self.folder / f"{p}.bin", dtype=np.uint16) for p in self.weights}
            self.starts = {p: np.flatnonzero(t == BOS) for p, t in self.tokens.items()}
            print({p: f"{len(t)} tokens, {len(self.starts[p])} documents" for p, t in self.tokens.items()}, flush=True)

    def batch(self, generator: np.random.Generator, length: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = list(self.weights)
        chosen = generator.choice(parts, size=count, p=[self.weights[p] for p in parts])
        rows = []
        for part in chosen:
            tokens, limit = self.tokens[part], len(self.tokens[part]) - length - 1
            # Chapters are long, so a window of a book begins anywhere; other documents are short and begin windows.
            begin = generator.integers(limit) if part == "books" else generator.choice(self.starts[part])
            rows.append(tokens[min(begin, limit) :][: length + 1].astype(np.int64))
        window = torch.from_numpy(np.stack(rows))
        return window[:, :-1], window[:, 1:]


def schedule(progress: float, warmup: float = 0.01) -> float:
    """Share of the peak learning rate: linear warm-up, constant, then linear to zero over the last 65 %."""
    return min(1.0, progress / warmup + 0.05, (1 - progress) / 0.65)


@torch.no_grad()
def validate(model: llama.Llama, folder: pathlib.Path, part: str, count: int = 12, length: int = 512) -> float:
    tokens = np.fromfile(folder / f"{part}.validation.bin", dtype=np.uint16).astype(np.int64)
    begins = np.linspace(0, len(tokens) - length - 1, count).astype(int)
    window = torch.from_numpy(np.stack([tokens[b : b + length + 1] for b in begins]))
    return model.loss(window[:, :-1], window[:, 1:]).item()


def build(shape: llama.Shape, muon_rate: float, adam_rate: float) -> tuple[llama.Llama, optimizer.MuonAdam]:
    model = llama.Llama(shape)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    groups = [
        {"params": matrices, "kind": "muon", "peak": muon_rate},
        {"params": others, "kind": "adam", "peak": adam_rate},
    ]
    return model, optimizer.MuonAdam(groups)


def save(path: pathlib.Path, model: llama.Llama, optim: optimizer.MuonAdam, counters: dict) -> None:
    temporary = path.with_suffix(".new")
    torch.save(
        {"shape": dataclasses.asdict(model.shape), "model": model.state_dict(), "optimizer": optim.state_dict(), **counters},
        temporary,
    )
    os.replace(temporary, path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--end", help="HH:MM at which training ends")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--books", type=float, default=0.4, help="share of windows from books")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.004)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--save-minutes", type=float, default=4)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(7)
    generator = np.random.default_rng()
    model, optim = build(llama.Shape(), args.muon_rate, args.adam_rate)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    path = args.work / "checkpoint.pt"
    begin, tokens_seen, step = time.time(), 0, 0
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optim.load_state_dict(saved["optimizer"])
        begin, tokens_seen, step = saved["begin"], saved["tokens_seen"], saved["step"]
    end = begin + 60 * args.minutes
    if args.end:
        end = datetime.datetime.combine(datetime.date.today(), datetime.time.fromisoformat(args.end)).timestamp()
    corpus = Corpus(args.work / "tokens", {"books": args.books, "chat": 1 - args.books})
    compiled = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    losses, reported, saved_at, since = [], time.time(), time.time(), tokens_seen
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while time.time() < end and not stopped:
        progress = (time.time() - begin) / (end - begin)
        length, count = [(n, c) for at, n, c in PHASES if progress >= at][-1]
        inputs, targets = corpus.batch(generator, length, count)
        # Compiling anew for the few steps of the last phase would take longer than it saves.
        loss = (compiled if length == PHASES[0][1] else model.loss)(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.scale = schedule(progress)
        optim.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens_seen, step = tokens_seen + inputs.numel(), step + 1
        if time.time() - reported > 60:
            speed = (tokens_seen - since) / (time.time() - reported)
            line = {"step": step, "progress": round(progress, 3), "loss": round(sum(losses) / len(losses), 3), "tokens_s": round(speed)}
            losses, reported, since = [], time.time(), tokens_seen
            print(json.dumps(line), flush=True)
        if time.time() - saved_at > 60 * args.save_minutes:
            held_out = {part: round(validate(model, args.work / "tokens", part), 3) for part in corpus.weights}
            print(json.dumps({"step": step, "tokens": tokens_seen, "validation": held_out}), flush=True)
            save(path, model, optim, {"begin": begin, "tokens_seen": tokens_seen, "step": step})
            saved_at = time.time()
            corpus.reload()
    save(path, model, optim, {"begin": begin, "tokens_seen": tokens_seen, "step": step})
    for part in corpus.weights:
        nats = validate(model, args.work / "tokens", part, count=32)
        print(f"{part}: {nats:.3f} nats, perplexity {math.exp(nats):.2f} per token")


if __name__ == "__main__":
    main()
