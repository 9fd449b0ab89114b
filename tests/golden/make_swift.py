"""Make swift_owl3.jsonl: what the mPLUG-Owl3 templates of ms-swift write, for `chat: swift` to be held against.

Run by hand, in an environment with ms-swift 4.6.0 and torch; owl-stream need not be there:

    python tests/golden/make_swift.py .cache/qwen2-tokenizer.json > tests/golden/swift_owl3.jsonl

The argument is the Qwen2 vocabulary as tests/support/qwen2.py builds it. Templates, tokenisation, labels and the choice
of frames are the package's own. Two things that it takes from elsewhere are stood in for: the decoder of videos, and
the image processor, which comes with the model's weights (its grids are looked up in owl3_grid.json, its prompts are
spelled below).

A row: `id`, `version` (240728 or 241101), `messages` with `<|image|>` and `<|video|>` where media stand (`learned`
false is ms-swift's `loss` false), `media` ([width, height] of an image, the number of frames of a video), `image_size`
-> `input_ids`, `labels`, `media_offset` (240728: [L][2], 241101: [crops]; null without media), `frames` (those used, of
all videos), `crops`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from swift.template import TEMPLATE_MAPPING  # type: ignore[import-not-found] # not installed with owl-stream
from transformers import PreTrainedTokenizerFast

SIDES = {"240728": 384, "241101": 378}
TEMPLATES = {"240728": "mplug_owl3", "241101": "mplug_owl3_241101"}
WIDE, TALL, SQUARE, FLAT = (640, 384), (333, 640), (640, 640), (1024, 333)
FRAME = (8, 6)


def turn(role: str, content: str, learned: bool = True) -> dict[str, Any]:
    """A message of a row."""
    return {"role": role, "content": content, **({} if learned else {"learned": False})}


def ask(*contents: str) -> list[dict[str, Any]]:
    """User and assistant by turns."""
    return [turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]


CASES: dict[str, tuple[list[dict[str, Any]], list[tuple[int, int] | int]]] = {
    "text": (ask("What is an owl?", "A bird that hunts at night."), []),
    "text-system": ([turn("system", "Answer in French."), *ask("What is an owl?", "Un oiseau.")], []),
    "text-empty-system": ([turn("system", ""), *ask("What is an owl?", "A bird.")], []),
    "text-turns": (ask("Hi", "Hello.", "And you?", "Fine.", "Good.", "Bye!\n"), []),
    "text-edges": (ask("\n\nWhat? \n", "\n\nThis. \n", "  ", " \n"), []),
    "text-emoji": (ask("Wie spät ist es? 何時ですか", "Zwölf 🦉 Uhr."), []),
    "text-empty-answers": (ask("One", "", "Two", "2", "Three", ""), []),
    "text-ends-itself": (ask("One", "1<|im_end|>", "Two", "2<|im_end|>"), []),
    "text-ends-all": (ask("One", "1", "Two", "2<|endoftext|>"), []),
    "text-ends-in-newline": (ask("One", "1<|im_end|>\n"), []),
    "one": (ask("<|image|>What is in this image?", "A mat."), [WIDE]),
    "one-newline": (ask("<|image|>\nWhat is in this image?", "A mat."), [WIDE]),
    "one-alone": (ask("<|image|>", "A mat."), [SQUARE]),
    "one-inside": (ask("Look: <|image|> and tell.", "It is a mat."), [TALL]),
    "one-behind": (ask("Look <|image|>", "A mat."), [FLAT]),
    "one-system": ([turn("system", "Be kind."), *ask("<|image|>\n\nWhat?", "A mat.")], [(100, 384)]),
    "one-later": (ask("Hi", "Hello.", "<|image|>And this?", "A mat.", "Sure?", "Yes."), [(3000, 384)]),
    "two-touching": (ask("<|image|><|image|>Which?", "The first."), [WIDE, TALL]),
    "two-apart": (ask("A <|image|>\nB <|image|>\nWhich is larger?", "A."), [SQUARE, FLAT]),
    "three-turns": (
        ask("<|image|>What?", "A mat.", "<|image|> And <|image|>", "Cats.", "How many?", "Two."),
        [SQUARE, WIDE, (1024, 3000)],
    ),
    "video-short": (ask("<|video|>What happens?", "It sits."), [5]),
    "video-16": (ask("<|video|>\nWhat happens?", "It sits."), [16]),
    "video-long": (ask("What happens? <|video|>", "It sits."), [41]),
    "video-and-images": (ask("<|image|>first, <|video|> then, <|image|>last", "Good."), [WIDE, 3, TALL]),
    "two-videos": (ask("<|video|><|video|>", "Good.", "More <|video|>?", "No."), [17, 1, 100]),
    "unlearned-first": ([*ask("One"), turn("assistant", "1", learned=False), *ask("Two", "2")], []),
    "unlearned-last": ([*ask("One", "1", "Two"), turn("assistant", "2", learned=False)], []),
    "unlearned-all": ([*ask("One"), turn("assistant", "\n\n1", learned=False)], []),
    "unlearned-between": (
        [*ask("<|image|>One", "1", "Two"), turn("assistant", "\n2 \n", learned=False), *ask("Three", "3")],
        [WIDE],
    ),
    "unlearned-ends-itself": ([*ask("One", "1", "Two"), turn("assistant", "2<|im_end|>", learned=False)], []),
    "assistant-first": ([turn("assistant", "Once."), *ask("And?", "Upon.")], []),
    "two-questions": ([*ask("One."), *ask("Two.", "2")], []),
    "two-answers": ([*ask("One", "1"), turn("assistant", " and 2"), *ask("More?", "No.")], []),
    "two-answers-second-unlearned": (
        [*ask("One", "1"), turn("assistant", " not 2", learned=False), *ask("More?", "No.")],
        [],
    ),
    "two-answers-first-unlearned": (
        [*ask("One"), turn("assistant", "Not 2 ", learned=False), turn("assistant", " but 1")],
        [],
    ),
    "question-last": (ask("One", "1", "Two"), []),
}


def grid_prompt(version: str, img_token: str, h: int, w: int) -> str:
    """What the released image processor's `cut_prompt_template` writes for a picture cut into h x w."""
    if version == "240728":
        lines = [" ".join(f"subimg({i},{j}){img_token}" for j in range(w)) for i in range(h)]
        head, tail = f"Cut to {h} rows {w} columns with a global view", f"global_view{img_token}"
    else:
        lines = [" ".join([img_token] * w)] * h
        head, tail = f"<|start_cut|>{h}*{w}", f"{img_token}<|end_cut|>"
    return "\n".join([head, *lines, tail])


class ImageProcessor:
    """Stands in for the released one: how pictures are cut, without their pixels; keeps a list of the pictures."""

    def __init__(self, version: str, grids: dict[tuple[int, int, int], tuple[int, int]]) -> None:
        self.version, self.grids = version, grids
        self.seen: list[Image.Image] = []

    def cut_prompt_template(self, img_token: str, h: int, w: int) -> str:
        """The prompt of a cut picture."""
        return grid_prompt(self.version, img_token, h, w)

    def __call__(self, images: list[Image.Image], cut_enable: bool, return_tensors: str) -> dict[str, Any]:
        """`cut_shape`: per picture its grid and (1, 1) for its global view; None where nothing is cut."""
        self.seen = list(images)
        if not cut_enable:
            return {"pixel_values": torch.zeros(len(images)), "cut_shape": None}
        grids = [self.grids[SIDES[self.version], image.width, image.height] for image in images]
        crops = sum(rows * cols + 1 for rows, cols in grids)
        return {"pixel_values": torch.zeros(crops), "cut_shape": [shape for grid in grids for shape in (grid, (1, 1))]}


class Video:
    """Stands in for decord's `VideoReader`, and for what it reads: frames of one per second that name themselves."""

    def __init__(self, video: Any, ctx: Any = None) -> None:
        self.frames: int = video.frames if isinstance(video, Video) else video

    def __len__(self) -> int:
        return self.frames

    def get_avg_fps(self) -> float:
        """Frames per second."""
        return 1.0

    def get_batch(self, chosen: list[int]) -> Any:
        """Frames whose first pixel holds their number."""
        batch = np.zeros((len(chosen), FRAME[1], FRAME[0], 3), np.uint8)
        batch[:, 0, 0, 0], batch[:, 0, 0, 1], batch[:, 0, 0, 2] = np.array(chosen) // 256, np.array(chosen) % 256, 255
        return SimpleNamespace(asnumpy=lambda: batch)


def install_decord() -> None:
    """Let `from decord import VideoReader, cpu` find the stand-in."""
    module = ModuleType("decord")
    module.VideoReader, module.cpu = Video, lambda index: None  # type: ignore[attr-defined] # a module made here
    sys.modules["decord"] = module


def make_template(version: str, tokenizer: PreTrainedTokenizerFast, images: ImageProcessor) -> Any:
    """The package's template of a release, as it trains."""
    meta = TEMPLATE_MAPPING[TEMPLATES[version]]
    processor = SimpleNamespace(
        tokenizer=tokenizer,
        image_processor=images,
        encode=tokenizer.encode,
        model_info=SimpleNamespace(config=None, task_type="causal_lm", max_model_len=32768),
        model_meta=SimpleNamespace(is_multimodal=True),
    )
    template = meta.template_cls(processor, meta)
    template.set_mode("train")
    return template


def as_swift(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row's messages as ms-swift's data sets have them."""
    spelt = []
    for message in messages:
        content = message["content"].replace("<|image|>", "<image>").replace("<|video|>", "<video>")
        loss = {} if message.get("learned", True) else {"loss": False}
        spelt.append({"role": message["role"], "content": content, **loss})
    return spelt


def make_row(name: str, version: str, template: Any, images: ImageProcessor) -> dict[str, Any]:
    """What the template makes of a case."""
    messages, media = CASES[name]
    images.seen = []
    pictures = [Image.new("RGB", size) for size in media if isinstance(size, tuple)]
    videos = [Video(frames) for frames in media if isinstance(frames, int)]
    made = template.encode({"messages": as_swift(messages), "images": pictures, "videos": videos})
    offset = made.get("media_offset")
    if offset is not None:
        offset = offset.tolist() if version == "241101" else offset[0].tolist()
    corners: list[Any] = [image.getpixel((0, 0)) for image in images.seen]
    return {
        "id": name,
        "version": version,
        "messages": messages,
        "media": media,
        "image_size": SIDES[version],
        "input_ids": made["input_ids"],
        "labels": made["labels"],
        "media_offset": offset,
        "frames": [high * 256 + low for high, low, mark in corners if mark == 255],
        "crops": len(made["pixel_values"]) if offset is not None else 0,
    }


def main(vocabulary: str) -> None:
    """Print every case of both releases."""
    install_decord()
    table = json.loads((Path(__file__).parent / "owl3_grid.json").read_text())
    grids = {(side, width, height): (rows, cols) for side, width, height, rows, cols in table["rows"]}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=vocabulary, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    for version in SIDES:
        images = ImageProcessor(version, grids)
        template = make_template(version, tokenizer, images)
        for name in CASES:
            print(json.dumps(make_row(name, version, template, images), ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main(sys.argv[1])
