#!/usr/bin/env python3
"""Renders chat templates with transformers' own environment.

    python tools/golden/chat.py

The templates of `chat_templates/` are written for these tests: they produce the prompt formats that the named families document
and use the Jinja that their published templates use. Each case becomes `crates/octet-text/tests/golden/chat/<template>[-<case>].json`:
`template`, `bos_token`, `eos_token`, `messages`, `kwargs` (further variables, `tools` among them), `add_generation_prompt` and
`expected`; where the template refuses the messages, `expected` is null and `error` is the template's message.
"""

import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).resolve().parent
OUTPUT = HERE.parents[1] / "crates/octet-text/tests/golden/chat"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather at a place, \"now\" & later <today>.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. Z\u00fcrich"},
                "days": {"type": "integer", "minimum": 1, "default": 1},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}}

USER = {"role": "user", "content": "  Hello! What is 2 + 2?  "}
SYSTEM = {"role": "system", "content": "You are brief.\nAnswer in English."}
ANSWER = {"role": "assistant", "content": "It is 4.\n"}
NEXT = {"role": "user", "content": "And in \u65e5\u672c\u8a9e? \U0001f642 <b>&amp;</b> {{ not jinja }}"}
ASK = {"role": "user", "content": "How is the weather in Paris?"}


def call(name: str, arguments: dict, identity: str = "abc123XYZ", content: str | None = "") -> dict:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": content, "tool_calls": [{"id": identity, "type": "function", "function": function}]}


def result(content: str, identity: str = "abc123XYZ") -> dict:
    return {"role": "tool", "content": content, "tool_call_id": identity, "name": "get_weather"}


PARIS = call("get_weather", {"place": "Paris", "days": 2, "deep": {"list": [1, 2.5, True, None]}})
SUNNY = result('{"sky": "clear", "degrees": 21}')
TWO_CALLS = {**PARIS, "content": "Let me look.", "tool_calls": PARIS["tool_calls"] + call("clock", {}, "123456789")["tool_calls"]}
TALK = [USER, ANSWER, NEXT]
TOOL_TALK = [ASK, PARIS, SUNNY]
THINKING = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."}
REASONED = {"role": "assistant", "content": "Let me look.", "reasoning_content": "I need the tool.\n", "tool_calls": PARIS["tool_calls"]}
DATE = {"date_string": "23 Nov 2026"}

# template: (bos, eos, {case: (messages, kwargs, add_generation_prompt)}); the case "" is the family's plain one.
FAMILIES = {
    "llama2": ("<s>", "</s>", {
        "": ([SYSTEM, *TALK], {}, True),
        "no-system": (TALK, {}, True),
        "two-users": ([USER, NEXT], {}, True),
    }),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", {
        "": ([SYSTEM, *TALK], {}, True),
        "no-generation-prompt": ([USER, ANSWER], {}, False),
    }),
    "llama3.1": ("<|begin_of_text|>", "<|eot_id|>", {
        "": ([SYSTEM, *TALK], DATE, True),
        "tools": ([SYSTEM, ASK], {"tools": [WEATHER, CLOCK], **DATE}, True),
        "tools-in-system": ([SYSTEM, ASK], {"tools": [WEATHER], "tools_in_user_message": False, **DATE}, True),
        "tool-result": (TOOL_TALK, {"tools": [WEATHER], **DATE}, True),
        "builtin-tools": ([ASK, call("brave_search", {"query": "weather in Paris"}), result("rain")], {"builtin_tools": ["brave_search", "code_interpreter"], **DATE}, True),
        "two-calls": ([ASK, TWO_CALLS], {"tools": [WEATHER, CLOCK], **DATE}, True),
        "tools-without-user": ([SYSTEM], {"tools": [WEATHER], **DATE}, True),
    }),
    "mistral-v0.1": ("<s>", "</s>", {
        "": (TALK, {}, True),
        "system-refused": ([SYSTEM, USER], {}, True),
    }),
    "mistral-v0.3": ("<s>", "</s>", {
        "": ([SYSTEM, *TALK], {}, True),
        "tools": ([SYSTEM, *TALK[:2], ASK], {"tools": [WEATHER, CLOCK]}, True),
        "tool-result": (TOOL_TALK, {"tools": [WEATHER]}, True),
        "two-calls": ([ASK, TWO_CALLS, SUNNY, result("12:00", "123456789")], {"tools": [WEATHER, CLOCK]}, True),
        "short-id": ([ASK, call("clock", {}, "short")], {"tools": [CLOCK]}, True),
        "two-users": ([USER, NEXT], {}, True),
    }),
    "qwen2": ("", "<|im_end|>", {
        "": (TALK, {}, True),
        "system": ([SYSTEM, *TALK], {}, True),
    }),
    "qwen2.5": ("", "<|im_end|>", {
        "": (TALK, {}, True),
        "system": ([SYSTEM, *TALK], {}, True),
        "tools": ([SYSTEM, ASK], {"tools": [WEATHER, CLOCK]}, True),
        "tool-result": ([ASK, TWO_CALLS, SUNNY, result("12:00", "123456789")], {"tools": [WEATHER, CLOCK]}, True),
    }),
    "qwen3": ("", "<|im_end|>", {
        "": ([SYSTEM, *TALK], {}, True),
        "no-thinking": (TALK, {"enable_thinking": False}, True),
        "thinking": (TALK, {"enable_thinking": True}, True),
        "thought-in-history": ([USER, THINKING, NEXT], {}, True),
        "thought-last": ([USER, THINKING], {}, False),
        "tools": ([SYSTEM, ASK], {"tools": [WEATHER, CLOCK]}, True),
        "tool-result": ([ASK, REASONED, SUNNY], {"tools": [WEATHER]}, True),
        "two-calls": ([ASK, TWO_CALLS, SUNNY, result("12:00", "123456789")], {"tools": [WEATHER, CLOCK]}, True),
    }),
    "octet": ("<|begin|>", "<|end|>", {
        "": ([SYSTEM, *TALK], {}, True),
        "no-generation-prompt": ([USER, ANSWER], {}, False),
        "tool-refused": ([USER, SUNNY], {}, True),
    }),
    "features": ("<s>", "</s>", {
        "": ([SYSTEM, USER, {"role": "assistant", "content": None}, {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, {"role": "user", "content": "\tthe END of\tit \n"}], {}, True),
        "extra": ([USER, ANSWER], {"extra": {"key": "value"}, "missing": "here"}, False),
    }),
}


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for family, (bos, eos, cases) in FAMILIES.items():
        template = (HERE / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8").removesuffix("\n")
        for case, (messages, kwargs, add_generation_prompt) in cases.items():
            document = {"template": template, "bos_token": bos, "eos_token": eos, "messages": messages, "kwargs": kwargs, "add_generation_prompt": add_generation_prompt}
            rest = {k: v for k, v in kwargs.items() if k != "tools"}
            try:
                rendered, _ = render_jinja_template([messages], tools=kwargs.get("tools"), chat_template=template, add_generation_prompt=add_generation_prompt, bos_token=bos, eos_token=eos, **rest)
                document["expected"] = rendered[0]
            except jinja2.exceptions.TemplateError as error:
                document |= {"expected": None, "error": str(error)}
            name = f"{family}-{case}" if case else family
            (OUTPUT / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{name}: {document['expected'] if document['expected'] is not None else 'refused: ' + document['error']}\n")


if __name__ == "__main__":
    main()
