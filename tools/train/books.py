#!/usr/bin/env python3
"""Fetches public-domain story books and writes them as clean text documents.

    python tools/train/books.py WORK_FOLDER

The books come from the repositories of https://github.com/GITenberg, a mirror of Project Gutenberg: a missing one
is cloned into `WORK_FOLDER/repos/<name>`. Gutenberg's licence header and footer, headings, tables of
contents and notes are removed, hard-wrapped lines are joined. The result is `WORK_FOLDER/books.jsonl`: one JSON object
`{"book": ..., "text": ...}` for each chapter.
"""

import json
import pathlib
import re
import subprocess
import sys

# Repository name (it ends with the number of the book at gutenberg.org). All were published before 1929.
BOOKS = [
    "Alice-s-Adventures-in-Wonderland_11",
    "Andersen-s-Fairy-Tales_1597",
    "Black-Beauty_271",
    "Celtic-Fairy-Tales_7885",
    "Dorothy-and-the-Wizard-in-Oz_420",
    "English-Fairy-Tales_7439",
    "Five-Children-and-It_778",
    "Grimms-Fairy-Tales_2591",
    "Heidi_1448",
    "Indian-Fairy-Tales_7128",
    "Just-So-Stories_2781",
    "Old-Granny-Fox_4980",
    "Ozma-of-Oz_486",
    "Peter-Pan_16",
    "Raggedy-Ann-Stories_18190",
    "The-Adventures-of-Pinocchio_500",
    "The-Blue-Fairy-Book_503",
    "The-Emerald-City-of-Oz_517",
    "The-Green-Fairy-Book_7277",
    "The-Happy-Prince-and-Other-Tales_902",
    "The-Jungle-Book_236",
    "The-Marvelous-Land-of-Oz_54",
    "The-Princess-and-the-Goblin_708",
    "The-Railway-Children_1874",
    "The-Red-Fairy-Book_540",
    "The-Secret-Garden_113",
    "The-Story-of-Doctor-Dolittle_501",
    "The-Tale-of-Peter-Rabbit_14838",
    "The-Velveteen-Rabbit_11757",
    "The-Violet-Fairy-Book_641",
    "The-Wind-in-the-Willows_289",
    "The-Wonderful-Wizard-of-Oz_55",
    "The-Yellow-Fairy-Book_640",
    "Through-the-Looking-Glass_12",
]

START = re.compile(r"^\W*(START OF (THE|THIS) PROJECT GUTENBERG|END.{0,4}THE SMALL PRINT)[^\n]*\n", re.M | re.I)
END = re.compile(r"^\W*(END OF (THE |THIS )?PROJECT GUTENBERG|End of (the )?Project Gutenberg)", re.M | re.I)
PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\ufeff": "", "\u2013": "-"})
NOTES = re.compile(r"produced by|transcriber|proofread|gutenberg|e-text|etext|copyright|\bfootnote|isbn|http", re.I)
WRAP_COLUMN = 56  # a paragraph with a longer line was hard-wrapped; one without is verse or a heading


def read_book(folder: pathlib.Path) -> str:
    """The text of a book: its UTF-8 file where there is one, else the ASCII or Latin-1 file."""
    number = folder.name.rsplit("_", 1)[1]
    for suffix, encoding in (("-0.txt", "utf-8"), (".txt", "utf-8"), ("-8.txt", "latin-1"), (".txt", "latin-1")):
        path = folder / f"{number}{suffix}"
        try:
            return path.read_text(encoding=encoding)
        except (FileNotFoundError, UnicodeDecodeError):
            continue
    raise SystemExit(f"{folder}: no readable {number}.txt")


def strip_frame(text: str) -> str:
    """Removes what Project Gutenberg put before and after the book."""
    text = text.replace("\r\n", "\n")
    starts = list(START.finditer(text[: len(text) // 3]))
    if starts:
        text = text[starts[-1].end() :]
    end = END.search(text, len(text) // 2)
    return text[: end.start()] if end else text


def clean_paragraph(raw: str) -> str:
    lines = [line.strip() for line in raw.split("\n") if line.strip()]
    text = (" " if max(map(len, lines)) > WRAP_COLUMN else "\n").join(lines)
    text = re.sub(r"\[[^\]]*\]?", "", text.translate(PLAIN))
    text = re.sub(r"[_*=|~<>]", "", text)
    text = re.sub(r"\s*--+\s*", " \u2014 ", text)
    text = re.sub(r"\s*\u2014\s*", " \u2014 ", text)
    text = re.sub(r"(^|[\s(])`", r"\1'", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def is_heading(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    if not letters or re.match(r"(chapter|book|part|contents|illustrations|preface|introduction)\b", text, re.I):
        return len(text) < 120 or not letters
    if len(text) < 70 and sum(c.isupper() for c in letters) > 0.8 * len(letters):
        return True
    return len(text) < 60 and "\n" not in text and text[-1] not in ".!?,;:'\"\u2014"


def chapters(text: str) -> list[str]:
    """Splits a book at its headings; a piece shorter than 600 characters is a list or a note and is left out."""
    documents, current = [], []

    def close() -> None:
        document = "\n\n".join(current)
        if len(document) >= 600 and not re.search(r"^(Parallels|Sources?)[.,]", document, re.M):
            documents.append(document)
        current.clear()

    for raw in re.split(r"\n\s*\n", strip_frame(text)):
        if not raw.strip():
            continue
        paragraph = clean_paragraph(raw)
        if not paragraph or re.fullmatch(r"[\divxl. ]+", paragraph):
            continue
        if is_heading(paragraph):
            close()
        elif not NOTES.search(paragraph) and not re.search(r"\.{4,}|\s\d+$", paragraph):
            current.append(paragraph)
    close()
    return documents


def main() -> None:
    work = pathlib.Path(sys.argv[1])
    repos = work / "repos"
    repos.mkdir(parents=True, exist_ok=True)
    with open(work / "books.jsonl", "w", encoding="utf-8") as output:
        for name in BOOKS:
            if not (repos / name).is_dir():
                url = f"https://github.com/GITenberg/{name}"
                subprocess.run(["git", "clone", "-q", "--depth", "1", url, str(repos / name)], check=True)
            documents = chapters(read_book(repos / name))
            for document in documents:
                output.write(json.dumps({"book": name, "text": document}, ensure_ascii=False) + "\n")
            print(f"{name}: {len(documents)} chapters, {sum(map(len, documents))} characters")


if __name__ == "__main__":
    main()
