#!/usr/bin/env python3
"""Writes every float16 and bfloat16 bit pattern, converted to four FP8 formats by ml_dtypes.

    pip install ml_dtypes numpy
    python tools/golden/float8.py [OUTPUT_FOLDER]

One file for each (source, format): `<source>_to_<format>.bin`, 65536 bytes long; byte `i` is the FP8 code of
the source value whose bit pattern is `i`. And for each format `<format>_to_f32.bin`: 256 little-endian
float32, entry `c` is the value of code `c`.
"""

import pathlib
import sys

import ml_dtypes
import numpy as np

FORMATS = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
DEFAULT_OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "crates/octet-float8/tests/data"


def main() -> None:
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    patterns = np.arange(1 << 16, dtype=np.uint16)
    sources = {"f16": patterns.view(np.float16), "bf16": patterns.view(ml_dtypes.bfloat16)}
    for name in FORMATS:
        dtype = np.dtype(getattr(ml_dtypes, name))
        for source, values in sources.items():
            with np.errstate(all="ignore"):
                codes = values.astype(dtype).view(np.uint8)
            (output / f"{source}_to_{name}.bin").write_bytes(codes.tobytes())
        decoded = np.arange(256, dtype=np.uint8).view(dtype).astype("<f4")
        (output / f"{name}_to_f32.bin").write_bytes(decoded.tobytes())
    print(f"ml_dtypes {ml_dtypes.__version__}: wrote {3 * len(FORMATS)} files to {output}")


if __name__ == "__main__":
    main()
