"""Models as people have them on disk, small: a tokenizer, a processor, a configuration, a chat template."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken

from tests.support.families_tiles import (
    gemma3_model,
    gemma3_processor,
    gemma_tokenizer,
    internvl_model,
    internvl_processor,
    internvl_tokenizer,
)
from tests.support.tokenizer import small_tokenizer

QWENS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
FAMILIES = (*QWENS, "internvl", "gemma3")
TEMPLATES = Path(__file__).resolve().parents[1] / "layouts" / "templates"
Tools = list[dict[str, Any]] | None
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
_MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
_VISION = {"depth": 2, "num_heads": 2, "intermediate_size": 32, "hidden_size": 32, "out_hidden_size": 32}


class WithoutVideos:
    """A processor whose class wants a video processor, which needs torchvision: images work without one."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        """Nothing is checked."""
        return type(argument)


class _Qwen2Processor(WithoutVideos, hf.Qwen2VLProcessor):  # type: ignore[misc] # transformers is untyped
    pass


class Qwen25Processor(WithoutVideos, hf.Qwen2_5_VLProcessor):  # type: ignore[misc] # transformers is untyped
    """Qwen2.5-VL's."""


class _Qwen3Processor(WithoutVideos, hf.Qwen3VLProcessor):  # type: ignore[misc] # transformers is untyped
    pass


@dataclass(frozen=True)
class Family:
    """One model. `directory` holds its files, as `save_pretrained` writes them. `placeholder`: an image in a text."""

    name: str
    directory: Path
    tokenizer: Any
    processor: Any
    config: Any
    template: str
    placeholder: str = "<|image_pad|>"

    def text(self, messages: Sequence[dict[str, Any]], *, prompt: bool = False, tools: Tools = None) -> str:
        """A conversation as the chat template writes it."""
        rendered: str = self.tokenizer.apply_chat_template(
            list(messages), tools=tools, chat_template=self.template, tokenize=False, add_generation_prompt=prompt
        )
        return rendered

    def batch(
        self, conversations: Sequence[Sequence[dict[str, Any]]], images: Sequence[Image.Image], tools: Tools = None
    ) -> Any:
        """What the processor makes of conversations, padded; `images` of all of them in order."""
        texts = [self.text(messages, tools=tools) for messages in conversations]
        return self._processed(texts, images, padding=True, padding_side="right", return_tensors="pt")

    def labels(
        self, messages: Sequence[dict[str, Any]], images: Sequence[Image.Image], tools: Tools = None
    ) -> list[int]:
        """By prefixes: what an answer adds to the conversation before it, with its prompt, is learned."""
        whole = self._ids(self.text(messages, tools=tools), images)
        labels = [-100] * len(whole)
        for at, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._ids(self.text(messages[:at], prompt=True, tools=tools), images)
                behind = self._ids(self.text(messages[: at + 1], tools=tools), images)
                assert whole[: len(behind)] == behind, "tokens cross the border"
                assert behind[: len(before)] == before, "tokens cross the border"
                labels[len(before) : len(behind)] = whole[len(before) : len(behind)]
        return labels

    def model(self, seed: int = 0) -> Any:
        """A model of the released class. All weights are random: with a projector of zeros Gemma would see nothing."""
        torch.manual_seed(seed)
        classes = {
            "qwen2_vl": hf.Qwen2VLForConditionalGeneration,
            "qwen2_5_vl": hf.Qwen2_5_VLForConditionalGeneration,
            "qwen3_vl": hf.Qwen3VLForConditionalGeneration,
            "qwen3_5": hf.Qwen3_5ForConditionalGeneration,
            "internvl": hf.InternVLForConditionalGeneration,
            "gemma3": hf.Gemma3ForConditionalGeneration,
        }
        model = classes[self.name](self.config).eval()
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
        return model

    def _ids(self, text: str, images: Sequence[Image.Image]) -> list[int]:
        used = list(images)[: text.count(self.placeholder)]
        ids: list[int] = self._processed([text], used)["input_ids"][0]
        return ids

    def _processed(self, texts: list[str], images: Sequence[Image.Image], **options: Any) -> Any:
        given: Any = list(images)
        if self.name == "gemma3" and given:
            waiting = iter(given)
            given = [[next(waiting) for _ in range(text.count(self.placeholder))] for text in texts]
        return self.processor(text=texts, images=given or None, add_special_tokens=False, **options)


def make_family(name: str, directory: Path) -> Family:
    """Write a model's directory."""
    if name in QWENS:
        return make_qwen(name, directory)
    return _make_internvl(directory) if name == "internvl" else _make_gemma3(directory)


def _make_internvl(directory: Path) -> Family:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = internvl_tokenizer(directory, padding_side="right")
    processor = internvl_processor(tokenizer, crop_to_patches=True, min_patches=1, max_patches=6)
    config = internvl_model(tokenizer).config
    for part in (tokenizer, processor.image_processor, config):
        part.save_pretrained(directory)
    template = _with_template(directory, "internvl")
    return Family("internvl", directory, tokenizer, processor, config, template, "<IMG_CONTEXT>")


def _make_gemma3(directory: Path) -> Family:
    directory.mkdir(parents=True, exist_ok=True)
    processor, config = gemma3_processor(), gemma3_model().config
    for part in (processor, config):
        part.save_pretrained(directory)
    template = _with_template(directory, "gemma3")
    return Family("gemma3", directory, gemma_tokenizer(), processor, config, template, "<start_of_image>")


def _with_template(directory: Path, name: str) -> str:
    template = (TEMPLATES / f"{name}.jinja").read_text()
    (directory / "chat_template.jinja").write_text(template)
    return template


def make_qwen(
    family: str, directory: Path, *, vocabulary: Path | None = None, max_pixels: int = 28 * 28 * 16, **pixels: Any
) -> Family:
    """Write a model's directory, with a small vocabulary or this; `pixels` are settings of its image processor."""
    directory.mkdir(parents=True, exist_ok=True)
    small = small_tokenizer(directory / "base.json")
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(vocabulary or small),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="right",
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in VISION_TOKENS], special_tokens=True)
    small.unlink()
    newer = family in ("qwen3_vl", "qwen3_5")
    sides = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} if newer else {}
    images = hf.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=max_pixels, **{**sides, **pixels})
    processors = {"qwen2_vl": _Qwen2Processor, "qwen2_5_vl": Qwen25Processor}
    processor = processors.get(family, _Qwen3Processor)(images, tokenizer, None)
    template = _with_template(directory, "qwen3_vl" if newer else "qwen2_5_vl")
    config = _config(family, tokenizer)
    for part in (tokenizer, images, config):
        part.save_pretrained(directory)
    return Family(family, directory, tokenizer, processor, config, template)


def _config(family: str, tokenizer: Any) -> Any:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in zip(names, VISION_TOKENS, strict=True)}
    text = TINY_TEXT | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if family == "qwen2_vl":
        vision: dict[str, Any] = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
        return hf.Qwen2VLConfig(**ids, text_config=text | _MROPE, vision_config=vision)
    if family == "qwen2_5_vl":
        vision = _VISION | {"fullatt_block_indexes": [1], "window_size": 112, "tokens_per_second": 2}
        return hf.Qwen2_5_VLConfig(**ids, text_config=text | _MROPE, vision_config=vision)
    if family == "qwen3_vl":
        rope = {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}}
        vision = _VISION | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 256}
        return hf.Qwen3VLConfig(**ids, text_config=text | rope, vision_config=vision)
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_hidden_layers": 4,
    }
    vision = _VISION | {"num_position_embeddings": 256}
    return hf.Qwen3_5Config(**ids, text_config=text | linear, vision_config=vision)


def as_parts(messages: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Turns with `<|image|>` in their text, as transformers takes them: images and text as parts of a turn."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if "<|image|>" not in message["content"]:
            turns.append(dict(message))
            continue
        first, *others = message["content"].split("<|image|>")
        parts: list[dict[str, str]] = [{"type": "text", "text": first}] if first else []
        for text in others:
            parts += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
        turns.append({"role": message["role"], "content": parts})
    return turns


def opened(data: bytes) -> Image.Image:
    """A picture as Pillow opens it."""
    return Image.open(io.BytesIO(data))
