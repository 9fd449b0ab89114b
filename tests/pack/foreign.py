"""Datasets as others write them, each with pictures, a text-only record and some that are bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.tars import picture

Record = dict[str, Any]


def write_pictures(directory: Path, count: int) -> list[str]:
    """`images/0.jpg` and so on; returns their names relative to `directory`."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (directory / name).write_bytes(picture(40 + number % 5, 30, number))
    return names


def llava(names: list[str]) -> list[Record]:
    """One record about each picture, then one about the first two, then one without."""
    records = [_llava(f"id-{name}", f"<image>\nWhat is {name}?", f"It is {name}.", image=name) for name in names]
    records.append(_llava("both", "<image> or <image>?", "Neither.", image=names[:2]))
    return [*records, _llava("none", "Well?", "Yes.")]


def _llava(name: str, question: str, answer: str, **more: Any) -> Record:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns, **more}


def sharegpt(names: list[str]) -> list[Record]:
    """With a system prompt and `images`."""
    return [{**_llava(name, "<image>Why?", "So."), "images": [name], "system": "Be brief."} for name in names]


def swift(names: list[str]) -> list[Record]:
    """Both of its forms in turn."""
    records: list[Record] = []
    for number, name in enumerate(names):
        if number % 2:
            messages = [{"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "They."}]
            records.append({"messages": messages, "images": [{"path": name}]})
        else:
            records.append(
                {"query": "Sure?", "response": "Yes.", "history": [["<image>Who?", "Me."]], "images": [name]}
            )
    return records


def write_lines(path: Path, records: list[Record]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_array(path: Path, records: list[Record], indent: int | None = 1) -> Path:
    """One JSON array."""
    path.write_text(json.dumps(records, indent=indent))
    return path


def write_captions(directory: Path, count: int) -> Path:
    """`a/0.png` beside `a/0.txt` and so on."""
    (directory / "a").mkdir(parents=True)
    for number in range(count):
        (directory / "a" / f"{number}.png").write_bytes(picture(30, 30, number, "PNG"))
        (directory / "a" / f"{number}.txt").write_text(f"Picture {number}.\n")
    return directory
