"""Builds the demo's data set: 197 samples in four WebDataset shards, a tokenizer, and a configuration that names both.

The samples are what a fine-tuning set is made of: single pictures, several pictures between text, text alone, six
languages, the three record forms, and one JPEG whose scan was cut off. Every build writes the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from owl_stream.demo.pictures import Picture, corrupt, read_photograph
from owl_stream.demo.texts import DETAILS, LANGUAGES, PAIR, PHOTOGRAPHS, PROMPTS, SAME_MOTORCYCLE, Language
from owl_stream.demo.tokenizer import train_tokenizer

DATASET = "demo"
SHARDS = 4
CORRUPT_KEY = "corrupt"
CORRUPT_PHOTOGRAPH = "retina.jpg"
MULTI_PER_LANGUAGE = 8
RECALLED = PHOTOGRAPHS[::3]
"""The photographs that the text-only samples ask about."""
GLOBAL_BATCH_SIZE = 8
MARKER = r"(<\|image\|>)"
"""Layouts tokenise the text between two markers by itself, so the tokenizer learns from the same chunks."""

CONFIG = f"""\
# The demo's data set. To read it yourself: owl-stream serve --config owl-stream.yaml
datasets:
  {DATASET}:
    shards: ["shards/{DATASET}-{{00000..{SHARDS - 1:05}}}.tar"]
    layout: owl3-240728
    tokenizer: tokenizer.json
    vision: {{image_size: 112, cut: single}}  # small, so that the demo is quick
    global_batch_size: {GLOBAL_BATCH_SIZE}
    bucket_window: 8
"""


@dataclass(frozen=True)
class DemoSample:
    """One sample: its key, its members by extension, and what a tokenizer should learn from it."""

    key: str
    members: Mapping[str, bytes]
    texts: tuple[str, ...]


def build_demo_dataset(directory: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write shards, tokenizer and `owl-stream.yaml` below `directory`; returns the path of the latter.

    `progress` is called with (samples written, samples in all).

    Raises:
        ConfigError: scikit-image, which brings the photographs, is not installed.
    """
    samples = demo_samples()
    shards = directory / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    written = 0
    for number in range(SHARDS):
        # Every fourth sample, so that each shard holds every kind and language.
        part = samples[number::SHARDS]
        _write_shard(shards / f"{DATASET}-{number:05}.tar", part)
        written += len(part)
        if progress is not None:
            progress(written, len(samples))
    texts = [text for sample in samples for text in (*PROMPTS, *sample.texts)]
    train_tokenizer((chunk for text in texts for chunk in re.split(MARKER, text)), directory / "tokenizer.json")
    config = directory / "owl-stream.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return config


@dataclass(frozen=True)
class Place:
    """Where a member of the written data set lies: its data starts `offset` bytes into the shard."""

    shard: str
    key: str
    member: str
    offset: int


def read_places(directory: Path) -> list[Place]:
    """Every member of the written shards, read back with `tarfile`: an independent witness for what is served."""
    places = []
    for path in sorted((directory / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            places += [Place(path.name, _stem(m.name), m.name, m.offset_data) for m in tar.getmembers()]
    return places


def demo_samples() -> list[DemoSample]:
    """All samples, in a fixed order with unique keys."""
    pictures = {name: read_photograph(name) for name in dict.fromkeys((*PHOTOGRAPHS, *PAIR))}
    return [
        *_single_picture(pictures),
        *_two_turns(pictures),
        *_several_pictures(pictures),
        *_text_only(),
        _messages("same-motorcycle", [SAME_MOTORCYCLE], [pictures[name] for name in PAIR]),
        _corrupt_sample(pictures),
    ]


def _single_picture(pictures: Mapping[str, Picture]) -> Iterator[DemoSample]:
    """Every photograph in every language; the three record forms take turns, most are `messages`."""
    forms = (_messages, _messages, _conversations, _messages, _caption)
    for i, language in enumerate(LANGUAGES):
        for j, (name, caption) in enumerate(zip(PHOTOGRAPHS, language.captions, strict=True)):
            write = forms[(i + j) % len(forms)]
            question = f"<|image|>\n{language.describe}"
            yield write(f"{language.code}-{_stem(name)}", [(question, caption)], [pictures[name]])


def _two_turns(pictures: Mapping[str, Picture]) -> Iterator[DemoSample]:
    english = LANGUAGES[0]
    for name, question, answer in DETAILS:
        caption = english.captions[PHOTOGRAPHS.index(name)]
        turns = [(f"<|image|>\n{english.describe}", caption), (question, answer)]
        yield _messages(f"detail-{_stem(name)}", turns, [pictures[name]])


def _several_pictures(pictures: Mapping[str, Picture]) -> Iterator[DemoSample]:
    """Two or three pictures, each behind its label."""
    for i, language in enumerate(LANGUAGES):
        for j in range(MULTI_PER_LANGUAGE):
            chosen = [(2 * j + 5 * n + i) % len(PHOTOGRAPHS) for n in range(2 + j % 2)]
            labels = [language.label.format(n=n + 1) + "<|image|>" for n in range(len(chosen))]
            question = "\n".join([*labels, language.compare])
            answer = "\n".join(language.captions[c] for c in chosen)
            shown = [pictures[PHOTOGRAPHS[c]] for c in chosen]
            yield _messages(f"multi-{language.code}-{j}", [(question, answer)], shown)


def _text_only() -> Iterator[DemoSample]:
    for language in LANGUAGES:
        for name in RECALLED:
            turn = (language.recall.format(file=name), _caption_of(language, name))
            yield _messages(f"text-{language.code}-{_stem(name)}", [turn], [])


def _corrupt_sample(pictures: Mapping[str, Picture]) -> DemoSample:
    english = LANGUAGES[0]
    turn = (f"<|image|>\n{english.describe}", _caption_of(english, CORRUPT_PHOTOGRAPH))
    return _messages(CORRUPT_KEY, [turn], [corrupt(pictures[CORRUPT_PHOTOGRAPH])])


def _messages(key: str, turns: Sequence[tuple[str, str]], pictures: Sequence[Picture]) -> DemoSample:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return _sample(key, {"json": _json({"messages": messages})}, turns, pictures)


def _conversations(key: str, turns: Sequence[tuple[str, str]], pictures: Sequence[Picture]) -> DemoSample:
    conversations = [
        {"from": speaker, "value": text.replace("<|image|>", "<image>")}
        for turn in turns
        for speaker, text in zip(("human", "gpt"), turn, strict=True)
    ]
    return _sample(key, {"json": _json({"conversations": conversations})}, turns, pictures)


def _caption(key: str, turns: Sequence[tuple[str, str]], pictures: Sequence[Picture]) -> DemoSample:
    return _sample(key, {"txt": turns[0][1].encode()}, turns, pictures)


def _sample(
    key: str, record: Mapping[str, bytes], turns: Sequence[tuple[str, str]], pictures: Sequence[Picture]
) -> DemoSample:
    if len(pictures) == 1:
        images = {pictures[0].ext: pictures[0].data}
    else:
        images = {f"{n}.{picture.ext}": picture.data for n, picture in enumerate(pictures)}
    return DemoSample(key, {**record, **images}, tuple(text for turn in turns for text in turn))


def _write_shard(path: Path, samples: Sequence[DemoSample]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for ext, data in sample.members.items():
                # TarInfo's own defaults (owner 0, mtime 0) keep the bytes equal from build to build.
                info = tarfile.TarInfo(f"{sample.key}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _caption_of(language: Language, name: str) -> str:
    return language.captions[PHOTOGRAPHS.index(name)]


def _stem(name: str) -> str:
    return name.partition(".")[0]


def _json(record: object) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()
