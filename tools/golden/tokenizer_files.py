#!/usr/bin/env python3
"""Loads tiny tokenizer folders with transformers: which file wins where several name the same fact.

    python tools/golden/tokenizer_files.py

Each case becomes `crates/octet-text/tests/golden/tokenizers/<case>.json`: `files` (name: content, to be written to a folder) and
`expected`: `ids` of TEXTS with and without special tokens, `decoded` (those ids as text with and without special ones),
`special` (all ids that are left out of a text), `bos` and `eos` (token and id), `templates` (name: template).
"""

import json
import pathlib
import tempfile

from transformers import AutoTokenizer

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "crates/octet-text/tests/golden/tokenizers"
TEXTS = [
    "hello",
    "hello <|end|> hello",
    "a <|call|> b<|CALL|> c",
    "x<|call|>y <tool> z</tool>",
    " <|extra|>  hello<|first|><|second|></s>",
    "<image>hello<pad> <|begin|>hello",
]


def added(content: str, special: bool, **flags) -> dict:
    return {"content": content, "lstrip": False, "normalized": not special, "rstrip": False, "single_word": False, "special": special} | flags


def alphabet() -> list[str]:
    """GPT-2's letters of the 256 bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


MERGES = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["\u0120", "hello"]]
VOCABULARY = alphabet() + ["".join(pair) for pair in MERGES]
BEGIN, END = len(VOCABULARY), len(VOCABULARY) + 1
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BEFORE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [BEGIN], "tokens": ["<|begin|>"]}},
}


def tokenizer(post_processor: dict | None = BEFORE, normalizer: dict | None = None) -> dict:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": BEGIN} | added("<|begin|>", True), {"id": END} | added("<|end|>", True)],
        "normalizer": normalizer,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": post_processor,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {token: id for id, token in enumerate(VOCABULARY)}, "merges": MERGES},
    }


def sentence_piece(post_processor: dict | None) -> dict:
    """As Llama 2: characters with U+2581 for spaces, single bytes for the rest."""
    tokens = ["<unk>", "<|begin|>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "h", "e", "l", "o", "he", "ll", "hell", "hello", "\u2581hello"]
    document = tokenizer(post_processor)
    document["added_tokens"] = [{"id": id} | added(tokens[id], True) for id in range(3)]
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    document["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    document["model"] |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": {token: id for id, token in enumerate(tokens)},
                          "merges": [*MERGES[:4], ["\u2581", "hello"]]}
    return document


NAMED = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
LLAMA = NAMED | {"unk_token": "<unk>"}
LLAMA_BEFORE = json.loads(json.dumps(BEFORE).replace(str(BEGIN), "1"))


def case(config: dict, *, file: dict | None = None, **others) -> dict:
    """`others`: further files, `__` for a dot and `___` for a slash in their names."""
    files = {"tokenizer.json": file or tokenizer(), "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"} | config}
    return files | {name.replace("___", "/").replace("__", "."): content for name, content in others.items()}


CALLS = {str(END + 1): added("<|call|>", True), str(END + 2): added("<tool>", False)}
CASES = {
    "decoder-alone": case(NAMED | {"added_tokens_decoder": CALLS}),
    # Identifiers that do not follow the vocabulary are not obeyed: tokens are numbered on in the order of their identifiers.
    "decoder-other-ids": case(NAMED | {"added_tokens_decoder": {"900": added("<|call|>", True), "700": added("<tool>", False)}}),
    "decoder-strips": case(NAMED | {"added_tokens_decoder": {str(END + 1): added("<|call|>", True, lstrip=True, rstrip=True), str(END + 2): added("hell", False, single_word=True)}}),
    "decoder-normalized": case(NAMED | {"added_tokens_decoder": {str(END + 1): added("<|call|>", False), str(END + 2): added("<|CALL|>", False, normalized=False)}}, file=tokenizer(normalizer={"type": "Lowercase"})),
    "decoder-redefines": case(NAMED | {"added_tokens_decoder": {str(END): added("<|end|>", False, lstrip=True)}}),
    "decoder-redefines-unnamed": case({"added_tokens_decoder": {str(END): added("<|end|>", False)}}),
    "decoder-of-a-word": case(NAMED | {"added_tokens_decoder": {"3": added("hello", True)}}),
    "additional": case(NAMED | {"additional_special_tokens": ["<|call|>", "<|end|>"]}),
    "additional-detailed": case(NAMED | {"additional_special_tokens": [{"__type": "AddedToken", **added("<|call|>", True, rstrip=True)}, "<tool>"]}),
    "extra-list": case(NAMED | {"extra_special_tokens": ["<|extra|>"], "additional_special_tokens": ["<|call|>"]}),
    "extra-dict": case(NAMED | {"extra_special_tokens": {"image_token": "<image>", "call_token": "<|call|>"}}),
    "model-specific": case(NAMED | {"image_token": "<image>", "boi_token": "<|call|>"}),
    "added-file": case(NAMED | {"additional_special_tokens": ["<|second|>"]}, added_tokens__json={"<|second|>": END + 2, "<|first|>": END + 1}),
    "added-file-and-decoder": case(NAMED | {"added_tokens_decoder": CALLS}, added_tokens__json={"<|first|>": END + 1}),
    "map-wins": case({"bos_token": "<|end|>", "eos_token": "<|begin|>"}, special_tokens_map__json=NAMED),
    "map-with-decoder": case({"added_tokens_decoder": CALLS, "bos_token": "<|end|>"}, special_tokens_map__json=NAMED),
    "map-alone": case({}, special_tokens_map__json=NAMED | {"additional_special_tokens": ["<|call|>"], "pad_token": {**added("<pad>", False), "rstrip": True}}),
    "eos-lacking": case({"bos_token": "<|begin|>", "eos_token": "</s>"}),
    "eos-detailed": case({"bos_token": {"__type": "AddedToken", **added("<|begin|>", True)}, "eos_token": added("</s>", True) | {"__type": "AddedToken"}}),
    "eos-null": case({"bos_token": None, "eos_token": None, "pad_token": "<pad>", "unk_token": "<|end|>"}),
    "flags-ignored": case(NAMED | {"add_bos_token": False, "add_eos_token": True}),
    "flags-without-processor": case(NAMED | {"add_bos_token": True, "add_eos_token": True}, file=tokenizer(None)),
    "llama-flags-ignored": case(LLAMA | {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True}, file=sentence_piece(LLAMA_BEFORE)),
    "llama-without-processor": case(LLAMA | {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}, file=sentence_piece(None)),
    "prefix-space": case(NAMED | {"add_prefix_space": True, "clean_up_tokenization_spaces": True}),
    "split-special": case(NAMED | {"split_special_tokens": True}),
    "no-files": {"tokenizer.json": tokenizer()},
    "template-string": case(NAMED | {"chat_template": "one"}),
    "template-list": case(NAMED | {"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}),
    "template-dict": case(NAMED | {"chat_template": {"default": "plain", "rag": "documents"}}),
    "template-file-wins": case(NAMED | {"chat_template": {"default": "plain", "rag": "documents"}}, chat_template__jinja="file"),
    "template-files": case(NAMED | {"chat_template": {"default": "plain", "rag": "documents"}}, chat_template__jinja="file", additional_chat_templates___tool_use__jinja="more"),
    "template-json": case(NAMED | {"chat_template": "plain"}, chat_template__json={"chat_template": "of the processor"}),
}


def expected(folder: pathlib.Path) -> dict:
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = [loaded.encode(text, add_special_tokens=framed) for framed in (True, False) for text in TEXTS]
    templates = loaded.chat_template
    if isinstance(templates, str):
        templates = {"default": templates}
    return {
        "ids": ids,
        "decoded": [loaded.decode(tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False) for skip in (True, False) for tokens in ids],
        "special": sorted(id for id in loaded.added_tokens_decoder if not loaded.decode([id], skip_special_tokens=True)),
        "bos": [loaded.bos_token, loaded.bos_token_id],
        "eos": [loaded.eos_token, loaded.eos_token_id],
        "templates": templates or {},
    }


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                path = pathlib.Path(folder, file)
                path.parent.mkdir(exist_ok=True)
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
            try:
                result = expected(pathlib.Path(folder))
            except (TypeError, ValueError) as error:
                print(f"{name}: {error!r}")
                continue
        document = {"texts": TEXTS, "files": files, "expected": result}
        (OUTPUT / f"{name}.json").write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, result["bos"], result["eos"], result["special"], result["ids"][:6], result["templates"])


if __name__ == "__main__":
    main()
