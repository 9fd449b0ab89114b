"""Make positions_v4.json: how transformers 4.57 counts a row and spells a video: what `positions: v4` is held against.

Run by hand, in an environment with transformers 4.57.6 and torch; owl-stream need not be there:

    python tests/golden/make_positions_v4.py > tests/golden/positions_v4.json

A row of `cases`: `family`, `name`, `input_ids` [T], `image_grids` and `video_grids` ((t, h, w) in patches), `seconds`
(second_per_grid_ts of each video, as float32 on the way to the model; null: not given) -> `positions` [3][T]. `padded`
is one batch of the first two rows of Qwen2.5-VL: its `lengths` and `positions` [3][2][L]. Token ids are under `ids`.
A row of `video_texts`: `text` with one video, its `frames_indices`, `fps` and `tokens` of a frame pair -> `expanded`,
what `Qwen3VLProcessor` hands to its tokenizer.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import transformers as hf

IDS = {"image_token_id": 102, "video_token_id": 103, "vision_start_token_id": 100, "vision_end_token_id": 101}
WORD, STAMP = 5, 6
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2}
TOKENS_PER_SECOND = 2

Part = tuple[str, Any, float | None]


def text(tokens: int) -> Part:
    """Words."""
    return "text", tokens, None


def image(high: int, wide: int) -> Part:
    """An image of merged rows and columns."""
    return "image", (1, 2 * high, 2 * wide), None


def video(pairs: int, high: int, wide: int, seconds: float = 1.0) -> Part:
    """A video of frame pairs, each of merged rows and columns."""
    return "video", (pairs, 2 * high, 2 * wide), seconds


CASES: dict[str, list[Part]] = {
    "text": [text(7)],
    "one image": [text(3), image(3, 4), text(5)],
    "image first": [image(2, 5), text(4)],
    "image last": [text(4), image(5, 2)],
    "images back to back": [text(2), image(1, 1), image(4, 2), image(2, 3), text(2)],
    "long video": [text(3), video(9, 1, 2), text(4)],
    "wide video": [text(3), video(2, 2, 6), text(4)],
    "video first": [video(3, 2, 2, 2.0), text(2)],
    "video last": [text(2), video(4, 1, 1, 3.0)],
    "one pair": [video(1, 1, 1), text(1)],
    "fractions below one": [text(1), video(6, 2, 2, 1 / 3), text(3)],
    "fractions above one": [text(1), video(5, 2, 2, 1.9), text(3)],
    "twelve seconds a grid": [text(1), video(3, 3, 2, 12.5), text(3)],
    "videos back to back": [text(1), video(3, 1, 2, 0.5), video(2, 3, 1, 4.0), text(1)],
    "images and videos": [image(2, 2), text(2), video(5, 2, 2, 2.5), image(3, 1), text(1), video(2, 1, 1), image(1, 2)],
}


def models() -> dict[str, Any]:
    """Tiny random models: the method reads nothing but their configuration."""
    qwen3 = {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}}
    qwen2_vl = hf.Qwen2VLConfig(**IDS, text_config=TEXT | MROPE, vision_config=VISION | {"embed_dim": 32})
    qwen2_5_vl = hf.Qwen2_5_VLConfig(
        **IDS,
        text_config=TEXT | MROPE,
        vision_config=VISION | {"out_hidden_size": 32, "tokens_per_second": TOKENS_PER_SECOND},
    )
    deepstack = {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    qwen3_vl = hf.Qwen3VLConfig(**IDS, text_config=TEXT | qwen3, vision_config=VISION | deepstack)
    return {
        "qwen2_vl": hf.Qwen2VLForConditionalGeneration(qwen2_vl).model,
        "qwen2_5_vl": hf.Qwen2_5_VLForConditionalGeneration(qwen2_5_vl).model,
        "qwen3_vl": hf.Qwen3VLForConditionalGeneration(qwen3_vl).model,
    }


def ids(family: str, parts: list[Part]) -> list[int]:
    """A row as the processor of the family has it, each medium between its two marks."""
    row: list[int] = []
    for kind, what, _ in parts:
        if kind == "text":
            row += [WORD] * what
            continue
        pairs, tokens = what[0], what[1] * what[2] // 4
        pad = IDS[f"{kind}_token_id"]
        if kind == "video" and family == "qwen3_vl":
            for _ in range(pairs):
                row += [STAMP] * 3 + [IDS["vision_start_token_id"], *[pad] * tokens, IDS["vision_end_token_id"]]
        else:
            row += [IDS["vision_start_token_id"], *[pad] * (pairs * tokens), IDS["vision_end_token_id"]]
    return row


def case(family: str, name: str) -> dict[str, Any]:
    """One row without its positions."""
    parts = CASES[name]
    videos = [part for part in parts if part[0] == "video"]
    return {
        "family": family,
        "name": name,
        "input_ids": ids(family, parts),
        "image_grids": [part[1] for part in parts if part[0] == "image"],
        "video_grids": [part[1] for part in videos],
        "seconds": [part[2] for part in videos] if family == "qwen2_5_vl" and videos and name != "long video" else None,
    }


def computed(model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """The method's answer for right-padded rows: [3, B, L]."""
    length = max(len(row["input_ids"]) for row in rows)
    batch = torch.full((len(rows), length), WORD)
    mask = torch.zeros_like(batch)
    for b, row in enumerate(rows):
        batch[b, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[b, : len(row["input_ids"])] = 1
    images, videos = (
        torch.tensor([grid for row in rows for grid in row[f"{kind}_grids"]]).reshape(-1, 3)
        for kind in ("image", "video")
    )
    more = {}
    if any(row["seconds"] for row in rows):
        more["second_per_grid_ts"] = torch.tensor([s for row in rows for s in row["seconds"]], dtype=torch.float32)
    return model.get_rope_index(
        batch,
        image_grid_thw=images if len(images) else None,
        video_grid_thw=videos if len(videos) else None,
        attention_mask=mask,
        **more,
    )[0]


class Tokenizer:
    """Stands in for the tokenizer: its ids are the text."""

    init_kwargs: ClassVar[dict[str, Any]] = {}

    def __call__(self, text: list[str], **_: Any) -> dict[str, list[str]]:
        """What the processor takes for tokens."""
        return {"input_ids": text}


class Videos:
    """Stands in for the video processor, whose answer is given."""

    merge_size = 2

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    def __call__(self, **_: Any) -> dict[str, Any]:
        """That answer."""
        return self.made


class Processor(hf.Qwen3VLProcessor):
    """The released processor with these two."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.vision_start_token, self.vision_end_token = "<|vision_start|>", "<|vision_end|>"
        self.tokenizer, self.video_processor = Tokenizer(), Videos(made)

    def _merge_kwargs(self, *_: Any, **__: Any) -> dict[str, dict[str, Any]]:
        return {"text_kwargs": {}, "images_kwargs": {}, "videos_kwargs": {}}

    def _check_special_mm_tokens(self, *_: Any, **__: Any) -> None:
        pass


def video_text(text: str, indices: list[int], fps: float, tokens: int) -> dict[str, Any]:
    """One row of `video_texts`."""
    metadata = SimpleNamespace(fps=fps, frames_indices=list(indices))
    grid = np.array([[-(-len(indices) // 2), 2, 2 * tokens]])
    processor = Processor({"video_grid_thw": grid, "video_metadata": [metadata]})
    [expanded] = processor(text=[text], videos=["a video"])["input_ids"]
    return {"text": text, "frames_indices": indices, "fps": fps, "tokens": tokens, "expanded": expanded}


VIDEO_TEXTS = [
    ("Look:<|vision_start|><|video_pad|><|vision_end|>And?", [0, 1, 2, 3], 2.0, 2),
    ("Look:<|video_pad|>And?", [0, 1, 2], 24.0, 3),
    ("<|vision_start|><|video_pad|>", [5, 25, 45, 65, 85], 23.976, 1),
    ("<|video_pad|><|vision_end|>", [7], 30.0, 1),
    ("<|vision_start|><|video_pad|><|vision_end|>", [0, 30, 61, 89], 29.97, 4),
]


def main() -> None:
    """Print the file, one case a line."""
    assert hf.__version__ == "4.57.6", hf.__version__
    made = models()
    rows = [case(family, name) for family in made for name in CASES]
    for row in rows:
        row["positions"] = computed(made[row["family"]], [row])[:, 0].tolist()
    padded = [row for row in rows if row["family"] == "qwen2_5_vl"][:2]
    batch = {
        "lengths": [len(row["input_ids"]) for row in padded],
        "positions": computed(made["qwen2_5_vl"], padded).tolist(),
    }
    head = {"transformers": hf.__version__, "tokens_per_second": TOKENS_PER_SECOND, "ids": IDS, "padded": batch}
    head["video_texts"] = [video_text(*row) for row in VIDEO_TEXTS]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    print(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}")


if __name__ == "__main__":
    main()
