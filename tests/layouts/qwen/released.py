"""The released classes that the functions are held against, made without a hub and without torchvision.

Tiny models of the four families: `get_rope_index` reads nothing but their configuration. Of the video processors the
rules for sizes and patches are plain arithmetic and torch; torchvision, which they import, resizes and reads files.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import transformers as hf

TEXT_TOKEN, VISION_START, VISION_END, IMAGE_TOKEN, VIDEO_TOKEN = 5, 100, 101, 102, 103
IDS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": None,
}
VISION = {"depth": 1, "num_heads": 2, "intermediate_size": 32}
TOKENS_PER_SECOND = 2
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


@cache
def model(family: str) -> Any:
    """A random model of a family, the part that has `get_rope_index`."""
    return _MODELS[family]().model


def _qwen2_vl() -> Any:
    text = TEXT | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(**IDS, text_config=text, vision_config=vision))


def _qwen2_5_vl() -> Any:
    text = TEXT | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = VISION | {"hidden_size": 32, "out_hidden_size": 32, "tokens_per_second": TOKENS_PER_SECOND}
    return hf.Qwen2_5_VLForConditionalGeneration(hf.Qwen2_5_VLConfig(**IDS, text_config=text, vision_config=vision))


def _qwen3_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    vision = VISION | {"hidden_size": 32, "out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    config = hf.Qwen3VLConfig(**IDS, text_config=TEXT | {"rope_scaling": rope}, vision_config=vision)
    return hf.Qwen3VLForConditionalGeneration(config)


def _qwen3_5() -> Any:
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    vision = VISION | {"hidden_size": 32, "out_hidden_size": 32}
    config = hf.Qwen3_5Config(**IDS, text_config=TEXT | linear, vision_config=vision)
    return hf.Qwen3_5ForConditionalGeneration(config)


_MODELS = {"qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl, "qwen3_5": _qwen3_5}


@cache
def video_processor(family: str) -> Any:
    """The video processor's class of Qwen2-VL (`qwen2_vl`) or Qwen3-VL (`qwen3_vl`), as an object without settings."""
    module = f"transformers.models.{family}.video_processing_{family}"
    stand_ins = {} if find_spec("torchvision") else _empty_torchvision()
    sys.modules.update(stand_ins)
    try:
        released = importlib.import_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
    name = {"qwen2_vl": "Qwen2VLVideoProcessor", "qwen3_vl": "Qwen3VLVideoProcessor"}[family]
    return object.__new__(getattr(released, name))


def _empty_torchvision() -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {}
    for name in (
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.v2",
        "torchvision.transforms.v2.functional",
    ):
        modules[name] = ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
    return modules
