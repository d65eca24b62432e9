#!/usr/bin/env python3
"""Trains the tokenizer (unless there is one) and turns the texts into tokens.

    python tools/train/prepare.py WORK_FOLDER MODEL_FOLDER

Reads books.jsonl, chat.jsonl and chat.validation.jsonl of WORK_FOLDER; writes `MODEL_FOLDER/tokenizer.json` and
`tokenizer_config.json`, and `WORK_FOLDER/tokens/*.bin` (16-bit token ids, each document between begin and end).
Every 20th chapter of the books is held out.
"""

import json
import pathlib
import sys

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 4096
BEGIN, END, SYSTEM, USER, ASSISTANT, PAD = "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"
SPECIAL = [BEGIN, END, SYSTEM, USER, ASSISTANT, PAD]
# Words with the space before them, single digits, runs of signs, line ends: the split of GPT-4 and Qwen2.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('The roles of this model are system, user and assistant, not ' + message['role']) }}"
    "{%- endif %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def render(document: dict) -> str:
    """The text of a document as the chat template writes it, with its begin and its end."""
    if "messages" in document:
        return BEGIN + "".join(f"<|{m['role']}|>{m['content'].strip()}{END}" for m in document["messages"])
    return BEGIN + document["text"] + END


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, 0)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    work, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    read = lambda name: [json.loads(line) for line in open(work / f"{name}.jsonl", encoding="utf-8")]
    books = read("books")
    parts = {
        "books": [d for i, d in enumerate(books) if i % 20 != 10],
        "books.validation": books[10::20],
        "chat": read("chat"),
        "chat.validation": read("chat.validation"),
    }
    path = folder / "tokenizer.json"
    if path.exists():
        tokenizer = Tokenizer.from_file(str(path))
    else:
        chat_texts = [m["content"] for d in parts["chat"][::4] for m in d.get("messages", [{"content": d.get("text")}])]
        tokenizer = train_tokenizer([d["text"] for d in parts["books"]] + chat_texts)
        save_tokenizer(tokenizer, folder)
    (work / "tokens").mkdir(exist_ok=True)
    for name, documents in parts.items():
        texts = [render(d) for d in documents]
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in encoded])
        temporary = work / "tokens" / f"{name}.new"
        ids.tofile(temporary)
        temporary.replace(work / "tokens" / f"{name}.bin")
        # The markers of documents and turns are tokens, but no bytes of text.
        size = sum(len(t.encode()) for t in texts) - sum(t.count(s) * len(s) for t in texts for s in SPECIAL)
        (work / "tokens" / f"{name}.json").write_text(json.dumps({"tokens": len(ids), "bytes": size, "documents": len(texts)}))
        print(f"{name}: {len(texts)} documents, {len(ids)} tokens, {size / len(ids):.2f} bytes a token")


if __name__ == "__main__":
    main()
