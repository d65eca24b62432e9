#!/usr/bin/env python3
"""Writes what vLLM's protocol classes make of request bodies.

    pip install vllm==0.32.0
    python tools/golden/bodies.py

Each row of `crates/octet-server/tests/golden/bodies.json` is an endpoint, a field, the text of its JSON value, whether vLLM takes
a minimal body with this field, and the value that it reads (null where it refuses, or where a value is no plain JSON).
"""

import json
import math
import pathlib

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "crates/octet-server/tests/golden/bodies.json"

INTEGERS = ["1", "1.0", "1.5", '"1"', '"1.0"', '" 1 "', '"1_0"', '"+1"', '"0x1"', '"1e0"', '"x"', '""', "true", "false", "null", "[1]", "{}"]
NUMBERS = ["1", "1.0", '"1"', '"1.0"', '" 1 "', '"1e0"', '"x"', '""', '"nan"', '"inf"', "true", "false", "null", "[1]", "{}", "0", "-0.0", "5e-324",
           "1e-45", "1e-39", "1e308", "-1"]
FLAGS = ["true", "false", "1", "0", "2", "1.0", "0.0", '"true"', '"false"', '"True"', '"1"', '"0"', '"yes"', '"no"', '"on"', '"off"', '"t"', '"f"',
         '"y"', '"n"', '" true"', '"maybe"', '""', "null", "[]", "{}"]
BOTH = {
    **{field: INTEGERS for field in ("n", "top_k", "seed", "min_tokens", "max_tokens", "truncate_prompt_tokens", "priority")},
    **{field: NUMBERS for field in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")},
    **{field: FLAGS for field in ("stream", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "add_special_tokens", "return_token_ids",
                                  "use_beam_search")},
    "stop": ["null", '""', "[]", '["a"]', '"a"', "1", "[1]", "{}"],
    "stop_token_ids": ["null", "[]", "[5]", "[5.0]", '["5"]', "[true]", "5", '["x"]'],
    "allowed_token_ids": ["null", "[5]", "[5.0]", '["5"]', "5"],
    "bad_words": ["[]", '["a"]', "null", '"a"', "[1]"],
    "logit_bias": ["null", "{}", '{"5": 1}', '{"5": "1"}', '{"5": true}', '{"5": null}', "[]"],
    "response_format": ["null", '{"type": "text"}', '"text"', "{}"],
    "stream_options": ["null"],
    "user": ["null", '"me"', "1"],
    "metadata": ["null", "{}", '{"a": "b"}', "1"],
    "store": ["null", "false", "true"],
    "service_tier": ["null", '"auto"', '"default"'],
    "request_id": ['"a"', "1"],
    "cache_salt": ["null", '"a"', "1"],
    "truncation_side": ["null", '"left"', '"right"', '"up"'],
    "unheard_of": ["1", "{}", "null"],
}
COMPLETION = {"prompt": ['"a"', '["a"]', "[1]", "[1.0]", '["1", "2"]', "[[1]]", "[[1.0]]", '[["1"]]', "[true]", "[null]", "{}", "1", "[1.5]"],
              "logprobs": INTEGERS, "echo": FLAGS, "suffix": ["null", '""', '"x"'], "best_of": ["null", "1"]}
CHAT = {"max_completion_tokens": INTEGERS, "top_logprobs": ["null", "0", '"0"', "0.0"], "logprobs": FLAGS, "echo": FLAGS, "tools": ["null", "[]"],
        "tool_choice": ["null", '"none"', '"auto"'], "functions": ["null", "[]"], "function_call": ["null", '"none"', '"auto"'],
        "add_generation_prompt": FLAGS, "continue_final_message": ["false", "0", '"false"', "null"], "parallel_tool_calls": FLAGS,
        "reasoning_effort": ["null", '"low"']}


def read(kind: type, body: str, field: str):
    """Whether the body is taken, and the field's value. Ranges are checked when the sampling parameters are made."""
    try:
        request = kind.model_validate(json.loads(body))
        request.to_sampling_params(max_tokens=request.max_tokens or 16, default_sampling_params={})
    except Exception:  # Whatever it raises, vLLM answers with an error.
        return False, None
    value = getattr(request, field, None)
    plain = value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    return True, value if plain else None


def main() -> None:
    rows = []
    for path, kind, start, fields in (
        ("/v1/completions", CompletionRequest, '"prompt": "a"', {**BOTH, **COMPLETION}),
        ("/v1/chat/completions", ChatCompletionRequest, '"messages": [{"role": "user", "content": "a"}]', {**BOTH, **CHAT}),
    ):
        for field, values in fields.items():
            for value in values:
                taken, read_as = read(kind, f"{{{start}, {json.dumps(field)}: {value}}}", field)
                rows.append([path, field, value, taken, read_as])
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"{len(rows)} rows, {sum(row[3] for row in rows)} taken")


if __name__ == "__main__":
    main()
