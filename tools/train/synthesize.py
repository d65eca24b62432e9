#!/usr/bin/env python3
"""Writes conversations and plain texts in simple English, all from the generators in `text/`.

    python tools/train/synthesize.py WORK_FOLDER [--documents 60000] [--seed 1]

The result is `WORK_FOLDER/chat.jsonl`, one JSON object for each document: `{"messages": [...]}` or `{"text": ...}`. Every 50th
document goes to `chat.validation.jsonl` instead, and a text that stands there never stands in the first.
"""

import argparse
import json
import pathlib
import random

from text import chat, essays, facts, haiku, stories

SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.", "You are Octet Mini, a small language model.", "Answer briefly.", "You are a kind teacher.", "You are a storyteller.", "Answer in simple words."]


def conversation(g: random.Random) -> dict:
    turns = chat.conversation(g)
    roles = ["user", "assistant"] * (len(turns) // 2)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns)]
    if g.random() < 0.35:
        messages.insert(0, {"role": "system", "content": g.choice(SYSTEM)})
    return {"messages": messages}


def plain(g: random.Random) -> dict:
    """Text without roles: what a bare completion request meets."""
    kind = g.choices(["haiku", "story", "question", "facts", "request", "essay", "echo"], [5, 3, 3, 5, 2, 1, 2])[0]
    if kind == "haiku":
        topic, text = haiku.haiku(g)
        start = g.choice(["Write a haiku about {}", "Write a haiku about {}", "Write a haiku about {}.", "Haiku about {}:", "A haiku about {}:", "Write a haiku about {}:"]).format(topic)
        return {"text": f"{start}{g.choice([chr(10), chr(10) * 2])}{text}"}
    if kind == "story":
        return {"text": stories.Story(g).text(moral=g.random() < 0.4)}
    if kind == "essay":
        return {"text": essays.essay(g, future=g.random() < 0.3)[1] if g.random() < 0.8 else essays.letter(g)[2]}
    if kind == "echo":
        words = " ".join(g.choices(chat.WORDS, k=g.randrange(4, 40)))
        return {"text": g.choice([" ", "\n", ". "]).join([words] * g.randrange(2, 6))}
    turns = chat.conversation(g)
    if kind == "question":
        return {"text": "\n".join(f"{'A' if i % 2 else 'Q'}: {t}" for i, t in enumerate(turns))}
    if kind == "request":
        return {"text": f"{turns[0]}\n\n{turns[1]}"}
    answers = [turn for maker in g.choices([chat.concept, chat.animal, chat.world], k=g.randrange(2, 6)) for turn in maker(g)[1::2]]
    city, (what, remark) = g.choice(list(facts.CITIES.items()))
    answers.insert(0, f"{city} is {what}. {remark}.")
    g.shuffle(answers)
    return {"text": " ".join(answers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--documents", type=int, default=60000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    g = random.Random(args.seed)
    documents = [json.dumps((plain if g.random() < 0.3 else conversation)(g), ensure_ascii=False) for _ in range(args.documents)]
    held_out = set(documents[::50])
    training = [document for document in documents if document not in held_out]
    # A short document is drawn many times; the held-out part keeps only what training does not contain.
    for name, lines in (("chat", training), ("chat.validation", documents[::50])):
        (args.work / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(lines)} documents, {len(set(lines))} distinct, {sum(map(len, lines))} characters")


if __name__ == "__main__":
    main()
