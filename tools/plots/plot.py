#!/usr/bin/env python3
"""Plots of `octet bench latency --output-json FILE`: each measurement beside what the machine could do at best.

    plot.py throughput OUT.svg FILE...   decode tokens/s against the batch size
    plot.py latency OUT.svg FILE...      milliseconds of a decode step against the context
    plot.py prefill OUT.svg FILE...      seconds to the first token against the prompt's length

Files of one model and precision make one line; where several have the same place on it, their median counts. The
dashed line of the same colour is the floor: the bytes that must be read at the machine's measured bandwidth, or the
multiply-adds at its measured peak, whichever takes longer. `--title TEXT` replaces the title.

Only the standard library is used. The SVG has no background and follows the reader's light or dark scheme.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, BOTTOM = 78, 24, 56
TOP = 72
LEGEND_LINE = 20
# Distinguishable with the common colour blindnesses (after Okabe and Ito, 2008); for light and for dark grounds.
COLOURS = [("#0060a8", "#6cb8f0"), ("#c04a00", "#f0a050"), ("#007a55", "#3fcf9f"), ("#a04080", "#eaa0cc"), ("#6a5a00", "#d8c84a")]


@dataclass
class Plot:
    title: str
    x_title: str
    y_title: str
    phase: str


PLOTS = {
    "throughput": Plot("Decode throughput", "batch size (sequences)", "tokens/s", "decode"),
    "latency": Plot("Time of a decode step", "context (tokens)", "milliseconds", "decode"),
    "prefill": Plot("Time to the first token", "prompt (tokens)", "seconds", "prefill"),
}


@dataclass
class Series:
    """Measured values and floors, by place on the x axis."""

    measured: dict = field(default_factory=lambda: defaultdict(list))
    floor: dict = field(default_factory=lambda: defaultdict(list))

    def points(self, which):
        return [(x, statistics.median(values)) for x, values in sorted(getattr(self, which).items())]


def label(run):
    """What tells one line from another: the model, its weights, and its KV cache where that differs from them."""
    weights, cache = run["weight_type"], run["kv_cache_type"]
    parts = [run["model"].rstrip("/").split("/")[-1], run["quantization"] or weights]
    if cache != weights:
        parts.append(f"KV cache in {cache}")
    return ", ".join(parts)


def place(kind, run):
    """Where a run stands on the x axis, and what turns its tokens/s into the y axis's unit."""
    sequences = run["batch_size"] * run["n"]
    if kind == "throughput":
        return sequences, lambda speed: speed
    if kind == "latency":
        # The context grows during the run: its mean. Each step makes one token for each sequence.
        return run["input_len"] + run["output_len"] / 2, lambda speed: 1000 * sequences / speed
    return run["input_len"], lambda speed: sequences * run["input_len"] / speed


def read(kind, paths):
    series = defaultdict(Series)
    for path in paths:
        with open(path, encoding="utf-8") as file:
            run = json.load(file).get("octet")
        phase = run and run.get(PLOTS[kind].phase)
        if not phase:
            raise SystemExit(f"{path}: no {PLOTS[kind].phase} phase was measured here; is it a file of `octet bench latency`?")
        x, convert = place(kind, run)
        one = series[label(run)]
        one.measured[x].append(convert(phase["tokens_per_second"]))
        one.floor[x].append(convert(phase["floor_tokens_per_second"]))
    return series


def step(top, count):
    """The roundest step that needs at most `count` of them."""
    power = 10 ** math.floor(math.log10(top / count))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * count >= top * 0.999)


def number(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


class Axes:
    """From values to places on the page: x by its logarithm, y linear from 0."""

    def __init__(self, series, lines):
        xs = sorted({x for one in series.values() for x in one.measured})
        tops = [y for one in series.values() for which in ("measured", "floor") for _, y in one.points(which)]
        self.xs, self.top_edge = xs, TOP + LEGEND_LINE * lines
        self.y_step = step(max(tops) * 1.04, 6)
        self.y_top = self.y_step * math.ceil(max(tops) * 1.04 / self.y_step)
        margin = 0.06 * max(math.log(xs[-1] / xs[0]), 0.5)
        self.low, self.high = math.log(xs[0]) - margin, math.log(xs[-1]) + margin
        self.height = HEIGHT + LEGEND_LINE * lines

    def x(self, value):
        return LEFT + (math.log(value) - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        bottom = self.height - BOTTOM
        return bottom - value / self.y_top * (bottom - self.top_edge)

    def x_ticks(self):
        """Measured places, but for those too near to the one before to be read."""
        chosen, end = [], -math.inf
        for value in self.xs:
            half = 4.2 * len(number(value)) + 6
            if self.x(value) - half > end:
                chosen.append(value)
                end = self.x(value) + half
        return chosen


def colours(which):
    """Rules for one ground; without CSS variables, which converters to other formats do not know."""
    ink, soft, grid = [("#1f2328", "#59636e", "#d8dee4"), ("#e6edf3", "#9da7b3", "#343b44")][which]
    series = "".join(
        f".s{index} .line,.s{index} .floor{{stroke:{pair[which]}}}.s{index} .dot{{fill:{pair[which]}}}"
        for index, pair in enumerate(COLOURS)
    )
    return f"text{{fill:{soft}}}.title,.name{{fill:{ink}}}.grid{{stroke:{grid}}}.axis,.key{{stroke:{soft}}}{series}"


def style():
    return (
        "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
        ".title{font-size:16px;font-weight:600}.grid,.axis{stroke-width:1}"
        ".line{fill:none;stroke-width:2.25;stroke-linejoin:round}"
        ".floor{fill:none;stroke-width:1.75;stroke-dasharray:6 5;opacity:.75}"
        + colours(0) + "@media (prefers-color-scheme:dark){" + colours(1) + "}"
    )


def frame(plot, axes):
    bottom = axes.height - BOTTOM
    for index in range(round(axes.y_top / axes.y_step) + 1):
        value = index * axes.y_step
        y = axes.y(value)
        yield f'<line class="{"grid" if index else "axis"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 10}" y="{y + 4.5:.1f}" text-anchor="end">{number(value)}</text>'
    for value in axes.x_ticks():
        x = axes.x(value)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 21}" text-anchor="middle">{number(value)}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{axes.height - 12}" text-anchor="middle">{escape(plot.x_title)}</text>'
    middle = (axes.top_edge + bottom) / 2
    yield f'<text transform="translate(20 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(plot.y_title)}</text>'


def legend(series):
    for index, name in enumerate(series):
        y = 52 + LEGEND_LINE * index
        yield f'<g class="s{index % len(COLOURS)}">'
        yield f'<line class="line" x1="{LEFT}" x2="{LEFT + 28}" y1="{y}" y2="{y}"/><circle class="dot" cx="{LEFT + 14}" cy="{y}" r="3.5"/>'
        yield f'<text class="name" x="{LEFT + 38}" y="{y + 4.5}">{escape(name)}</text></g>'
    yield f'<line class="floor key" x1="{WIDTH - RIGHT - 178}" x2="{WIDTH - RIGHT - 146}" y1="52" y2="52"/>'
    yield f'<text x="{WIDTH - RIGHT}" y="56.5" text-anchor="end">floor of this machine</text>'


def curves(series, axes):
    for index, one in enumerate(series.values()):
        place_of = lambda point: f"{axes.x(point[0]):.1f},{axes.y(point[1]):.1f}"
        yield f'<g class="s{index % len(COLOURS)}">'
        yield f'<polyline class="floor" points="{" ".join(map(place_of, one.points("floor")))}"/>'
        yield f'<polyline class="line" points="{" ".join(map(place_of, one.points("measured")))}"/>'
        for (x, y), (_, floor) in zip(one.points("measured"), one.points("floor")):
            yield (f'<circle class="dot" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3.5">'
                   f"<title>{number(x)}: {y:,.4g}, floor {floor:,.4g}</title></circle>")
        yield "</g>"


def draw(plot, series):
    axes = Axes(series, len(series) - 1)
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {axes.height}" width="{WIDTH}" '
           f'height="{axes.height}" role="img" aria-label="{escape(plot.title)}"><style>{style()}</style>')
    yield f'<text class="title" x="{LEFT}" y="28">{escape(plot.title)}</text>'
    yield from legend(series)
    yield from frame(plot, axes)
    yield from curves(series, axes)
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=PLOTS)
    parser.add_argument("output")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    plot = PLOTS[arguments.kind]
    plot.title = arguments.title or plot.title
    text = "\n".join(draw(plot, read(arguments.kind, arguments.files)))
    with open(arguments.output, "w", encoding="utf-8") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
