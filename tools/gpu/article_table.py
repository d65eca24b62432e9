#!/usr/bin/env python3
"""The article's table on a GPU: Llama-3-8B's shape with random weights, 512 tokens in and 512 out, batch 8; bf16 and FP8
weights, tuned and not, each with the KV cache in bf16 and in FP8. If PyTorch is installed and sees the GPU, the same
shape in bf16 stands beside it, eager and as a CUDA graph.

    tools/gpu/article_table.py --device hip
    tools/gpu/article_table.py --device cuda --octet target/release/octet --out results

`octet selftest` comes first: a device that computes wrongly is not measured. Everything goes into one folder: the table
as Markdown with date and device, the self-test's report, the JSON of each measurement, the tuning files. Only the
standard library is used.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

# Weights and tuning, each with both caches. The order is the article's.
WEIGHTS = [("bf16", []), ("FP8", ["--quantization"])]
CACHES = [("bf16", "auto"), ("FP8", "fp8")]


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    selftest(options)
    rows = []
    for weights, flags in WEIGHTS:
        flags = [*flags, options.fp8_scheme] if flags else []
        for tuned in (False, True):
            for cache, cache_type in CACHES:
                rows.append(measure(options, (weights, tuned, cache), [*flags, "--kv-cache-dtype", cache_type]))
    table = markdown(options, rows, torch_rows(options))
    path = options.out / "table.md"
    path.write_text(table)
    print(table)
    print(f"written to {path}", file=sys.stderr)


def arguments():
    parser = argparse.ArgumentParser(description="The article's table on a GPU.")
    parser.add_argument("--device", required=True, choices=["hip", "cuda", "cpu"])
    parser.add_argument("--octet", default="octet", help="the program (default: octet)")
    parser.add_argument("--model", default="llama-3-8b", help="a shape inside the program, or a config.json")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--input-len", type=int, default=512)
    parser.add_argument("--output-len", type=int, default=512)
    parser.add_argument("--warmups", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--fp8-scheme", default="fp8", help="fp8 (a scale a matrix), fp8_per_channel or fp8_per_block")
    parser.add_argument("--python", default=sys.executable, help="a Python that may have PyTorch")
    parser.add_argument("--skip-selftest", action="store_true", help="for trying the script itself")
    parser.add_argument("--further", default="", help="further flags of `octet bench latency`, as one text")
    parser.add_argument("--out", type=Path, default=Path(f"article-{datetime.date.today()}"))
    return parser.parse_args()


def run(command, **keywords):
    print("+ " + " ".join(map(str, command)), file=sys.stderr)
    return subprocess.run(command, text=True, **keywords)


def selftest(options):
    """Ends the script if the device computes wrongly."""
    if options.skip_selftest:
        return
    done = run([options.octet, "selftest", "--device", options.device], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (options.out / "selftest.txt").write_text(done.stdout)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nthe self-test failed: nothing was measured")


def measure(options, key, flags):
    """Runs one line and returns what `--output-json` says."""
    weights, tuned, cache = key
    name = f"{weights}-{'tuned' if tuned else 'untuned'}-{cache}-cache".lower()
    output = options.out / f"{name}.json"
    # One file for each kind of weights: the cache's type changes no product.
    tuning = ["--gemm-tuning", "off"]
    if tuned:
        tuning = ["--gemm-tuning", "tune", "--gemm-tuning-file", str(options.out / f"tuned-{weights.lower()}-%d.csv")]
    command = [
        options.octet, "bench", "latency", "--model", options.model, "--load-format", "dummy", "--dtype", "bfloat16",
        "--device", options.device, "--batch-size", str(options.batch_size), "--input-len", str(options.input_len),
        "--output-len", str(options.output_len), "--num-iters-warmup", str(options.warmups),
        "--num-iters", str(options.iterations), "--output-json", str(output), *flags, *tuning, *options.further.split(),
    ]
    done = run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    (options.out / f"{name}.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return {"key": key, "results": json.loads(output.read_text()), "log": done.stderr}


def torch_rows(options):
    """(name, seconds) of PyTorch on the same shape, or a text that says why there are none."""
    script = Path(__file__).with_name("torch_llama.py")
    command = [
        options.python, script, "--batch-size", str(options.batch_size), "--input-len", str(options.input_len),
        "--output-len", str(options.output_len), "--warmups", str(options.warmups), "--iterations", str(options.iterations),
        "--config", config_path(options), "--device", "cpu" if options.device == "cpu" else "cuda",
    ]
    done = run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    (options.out / "torch.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed without a word"
    return json.loads(done.stdout)


def config_path(options):
    """The shape as a config.json: that of the program's source if the model is one of its shapes."""
    shapes = Path(__file__).resolve().parents[2] / "crates/octet-model/src/shapes"
    inside = shapes / f"{options.model}.json"
    if inside.exists():
        return str(inside)
    given = Path(options.model)
    return str(given / "config.json" if given.is_dir() else given)


def device_line(log):
    lines = [line.removeprefix("device: ") for line in log.splitlines() if line.startswith("device: ")]
    return lines[0] if lines else "unknown"


def phase(results, name):
    speed = results["octet"].get(name)
    if not speed:
        return "-"
    return f"{speed['tokens_per_second']:,.0f} ({100 * speed['fraction_of_floor']:.0f} %)"


def markdown(options, rows, torch):
    first = rows[0]["results"]
    base = first["avg_latency"]
    floor = first["octet"]["floor"]
    version = run([options.octet, "--version"], stdout=subprocess.PIPE).stdout.strip()
    lines = [
        f"# {options.model}, {options.input_len} in, {options.output_len} out, batch {options.batch_size}",
        "",
        f"{datetime.date.today()}, {device_line(rows[0]['log'])}; {version}, random weights, {options.iterations} batches after "
        f"{options.warmups}. FP8 weights: `--quantization {options.fp8_scheme}`; the head stays in bf16.",
        "",
    ]
    if floor["read_bytes_per_second"] is None:
        lines += ["**The device is simulated: these times mean nothing.**", ""]
    else:
        lines += [
            f"The floor, in brackets: {floor['read_bytes_per_second'] / 1e12:.3f} TB/s and "
            f"{2 * floor['multiply_add_per_second'] / 1e12:.2f} TFLOP/s, measured by {floor['measured_by']}.",
            "",
        ]
    lines += [
        "| weights | KV cache | average latency, s | to untuned bf16 | prefill, tokens/s | decode, tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        weights, tuned, cache = row["key"]
        latency = row["results"]["avg_latency"]
        lines.append(
            f"| {weights}{', tuned' if tuned else ''} | {cache} | {latency:.3f} | {100 * (latency / base - 1):+.0f} % | "
            f"{phase(row['results'], 'prefill')} | {phase(row['results'], 'decode')} |"
        )
    if isinstance(torch, str):
        lines += ["", f"PyTorch is not beside it: {torch}"]
    else:
        for name, seconds in torch["latencies"].items():
            lines.append(
                f"| PyTorch {torch['version']}, bf16, {name} | bf16 | {seconds:.3f} | {100 * (seconds / base - 1):+.0f} % | - | - |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
