#!/usr/bin/env python3
"""PyTorch on a Llama's shape with random weights, for the comparison in `article_table.py`: whole batches, greedy, a static
KV cache, PyTorch's own attention. On a GPU also with the decode step as a CUDA graph: its shapes are fixed, so that it
attends to the whole cache under a mask, for which PyTorch may have a slower kernel. Prints JSON.
"""

import argparse
import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("PyTorch is not installed")


class Model:
    """A decoder with random weights in bf16, and a cache for one batch."""

    def __init__(self, config, batch, longest, device):
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        self.hidden = config["hidden_size"]
        self.head_dim = config.get("head_dim") or self.hidden // self.heads
        self.epsilon = config.get("rms_norm_eps", 1e-5)
        generator = torch.Generator(device=device).manual_seed(0)

        def weight(rows, columns):
            values = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.bfloat16)
            return values * columns**-0.5

        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        inner = config["intermediate_size"]
        self.embedding = weight(config["vocab_size"], self.hidden)
        self.head = self.embedding if config.get("tie_word_embeddings") else weight(config["vocab_size"], self.hidden)
        self.weights = [
            (weight(width, self.hidden), weight(self.hidden, self.heads * self.head_dim), weight(2 * inner, self.hidden),
             weight(self.hidden, inner))
            for _ in range(self.layers)
        ]
        self.norm = torch.ones(self.hidden, device=device, dtype=torch.bfloat16)
        shape = (self.layers, 2, batch, self.kv_heads, longest, self.head_dim)
        self.cache = torch.zeros(shape, device=device, dtype=torch.bfloat16)
        theta = config.get("rope_theta", 10000.0)
        frequencies = theta ** (-torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim)
        angles = torch.outer(torch.arange(longest, device=device).float(), frequencies)
        self.cosines, self.sines = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)
        self.places = torch.arange(longest, device=device)

    def rotate(self, x, positions):
        cosines, sines = self.cosines[positions], self.sines[positions]
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)

    def step(self, tokens, positions, context):
        """Tokens `[batch, n]` at `positions [n]`, which makes `context` tokens in the cache; None looks at all of it and masks
        what is not there yet. Returns the next token of each sequence, `[batch, 1]`."""
        x = F.embedding(tokens, self.embedding)
        batch, count, _ = x.shape
        mask = (self.places <= positions[-1])[None, None, None, :] if context is None else None
        for layer, (qkv, output, gate_up, down) in enumerate(self.weights):
            normed = F.rms_norm(x, (self.hidden,), self.norm, self.epsilon)
            heads = F.linear(normed, qkv).view(batch, count, -1, self.head_dim).transpose(1, 2)
            queries, keys, values = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
            queries, keys = self.rotate(queries, positions), self.rotate(keys, positions)
            self.cache[layer, 0].index_copy_(2, positions, keys)
            self.cache[layer, 1].index_copy_(2, positions, values)
            keys, values = self.cache[layer, 0, :, :, :context], self.cache[layer, 1, :, :, :context]
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=count > 1, enable_gqa=True
            )
            x = x + F.linear(attended.transpose(1, 2).reshape(batch, count, -1), output)
            normed = F.rms_norm(x, (self.hidden,), self.norm, self.epsilon)
            gate, up = F.linear(normed, gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, down)
        last = F.rms_norm(x[:, -1], (self.hidden,), self.norm, self.epsilon)
        return F.linear(last, self.head).argmax(dim=-1, keepdim=True)


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def recorded(model, token, position):
    """The decode step as a graph over fixed inputs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.step(token, position, None)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        token.copy_(model.step(token, position, None))
        position.add_(1)
    return graph


def latency(model, prompts, output_len, device, graph, inputs):
    """Seconds of one batch."""
    synchronise(device)
    begun = time.perf_counter()
    count = prompts.shape[1]
    token = model.step(prompts, torch.arange(count, device=device), count)
    if graph is None:
        for index in range(output_len - 1):
            token = model.step(token, torch.tensor([count + index], device=device), count + index + 1)
    else:
        inputs[0].copy_(token)
        inputs[1].fill_(count)
        for _ in range(output_len - 1):
            graph.replay()
    synchronise(device)
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    for name, default in [("batch-size", 8), ("input-len", 512), ("output-len", 512), ("warmups", 2), ("iterations", 5)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    # PyTorch for ROCm calls its devices cuda too.
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} sees no GPU")
    with open(options.config) as file:
        config = json.load(file)
    device = options.device
    longest = options.input_len + options.output_len
    with torch.inference_mode():
        model = Model(config, options.batch_size, longest, device)
        shape = (options.batch_size, options.input_len)
        prompts = torch.randint(0, min(10_000, config["vocab_size"]), shape, device=device)
        token = torch.zeros((options.batch_size, 1), dtype=torch.long, device=device)
        position = torch.full((1,), options.input_len, dtype=torch.long, device=device)
        modes = {"eager": None}
        if device == "cuda":
            modes["CUDA graph"] = recorded(model, token, position)
        latencies = {}
        for name, graph in modes.items():
            times = [
                latency(model, prompts, options.output_len, device, graph, (token, position))
                for _ in range(options.warmups + options.iterations)
            ]
            latencies[name] = sum(times[options.warmups:]) / options.iterations
    print(json.dumps({"version": torch.__version__, "latencies": latencies}))


if __name__ == "__main__":
    main()
