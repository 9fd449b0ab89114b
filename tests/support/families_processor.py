"""SmolVLM and LLaVA-OneVision, which have no layout of ours, small and without a hub: directories and tiny models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken

from tests.support.families import TINY_TEXT, WithoutVideos
from tests.support.tokenizer import small_tokenizer

BY_PROCESSOR = ("smolvlm", "llava_onevision")
SIDE, PATCH = 28, 7
"""Of a tile and of its patches, in pixels."""

_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_GRIDS = [[rows * SIDE, columns * SIDE] for rows in range(1, 4) for columns in range(1, 4)]

TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif -%}
{%- endfor -%}
{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""


class _SmolVLMProcessor(WithoutVideos, hf.SmolVLMProcessor):  # type: ignore[misc] # transformers is untyped
    pass


class _LlavaProcessor(WithoutVideos, hf.LlavaOnevisionProcessor):  # type: ignore[misc] # transformers is untyped
    pass


@dataclass(frozen=True)
class ProcessorFamily:
    """One model, whose directory has its files as `save_pretrained` writes them; the truth that tests compare with."""

    name: str
    directory: Path
    tokenizer: Any
    processor: Any
    config: Any

    def text(self, messages: Sequence[dict[str, Any]], *, prompt: bool = False) -> str:
        """A conversation as the chat template writes it."""
        rendered: str = self.tokenizer.apply_chat_template(
            list(messages), chat_template=TEMPLATE, tokenize=False, add_generation_prompt=prompt
        )
        return rendered

    def batch(
        self, conversations: Sequence[Sequence[dict[str, Any]]], pictures: Sequence[Sequence[Image.Image]]
    ) -> Any:
        """What the processor makes of conversations and the pictures of each, padded on the right."""
        texts = [self.text(messages) for messages in conversations]
        images = [list(row) for row in pictures] if any(pictures) else None
        return self.processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt")

    def labels(self, messages: Sequence[dict[str, Any]], pictures: Sequence[Image.Image]) -> list[int]:
        """By prefixes: what an answer adds to the conversation before it, with its prompt, is learned.

        The pictures of a prefix are filled up by those behind it, at its end: where the number of pictures in a row
        matters, its tokens stay what they are.
        """
        whole = self._ids(self.text(messages), pictures)
        labels = [-100] * len(whole)
        for at, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._ids(self.text(messages[:at], prompt=True), pictures)
                behind = self._ids(self.text(messages[: at + 1]), pictures)
                assert whole[: len(behind)] == behind, "tokens cross the border"
                assert behind[: len(before)] == before, "tokens cross the border"
                labels[len(before) : len(behind)] = whole[len(before) : len(behind)]
        return labels

    def _ids(self, text: str, pictures: Sequence[Image.Image]) -> list[int]:
        """Of a text, with all the pictures: those that it does not name stand behind a border, and are cut off."""
        border, missing = "<|im_end|>", len(pictures) - text.count("<image>")
        filled = text + (border + "<image>" * missing if missing else "")
        ids: list[int] = self.processor(text=[filled], images=[list(pictures)] if pictures else None)["input_ids"][0]
        if not missing:
            return ids
        image, end = self.tokenizer.convert_tokens_to_ids(["<image>", border])
        plain: list[int] = self.processor(text=[text.replace("<image>", "") + border])["input_ids"][0]
        ends = plain.count(end)
        places = [at for at, token in enumerate(ids) if token == end]
        assert image in ids[places[ends - 1] :], "what is cut off are pictures"
        return ids[: places[ends - 1]]

    def model(self, seed: int = 0) -> Any:
        """A model of the released class with random weights."""
        torch.manual_seed(seed)
        made = (
            hf.SmolVLMForConditionalGeneration if self.name == "smolvlm" else hf.LlavaOnevisionForConditionalGeneration
        )
        model = made(self.config).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1)
        return model


def make_processor_family(name: str, directory: Path, **pixels: Any) -> ProcessorFamily:
    """Write a model's directory; `pixels` are settings of its image processor."""
    directory.mkdir(parents=True, exist_ok=True)
    return _smolvlm(directory, pixels) if name == "smolvlm" else _llava(directory, pixels)


def _smolvlm(directory: Path, pixels: dict[str, Any]) -> ProcessorFamily:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = _tokenizer(directory, "<fake_token_around_image>", "<image>", "<global-img>", *places)
    sizes = {"size": {"longest_edge": 4 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    images = hf.SmolVLMImageProcessorPil(**{**sizes, **pixels})
    processor = _SmolVLMProcessor(images, tokenizer, None, image_seq_len=(SIDE // PATCH // 2) ** 2)
    text = TINY_TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = hf.SmolVLMConfig(
        text_config=text, vision_config=_VISION, image_token_id=processor.image_token_id, scale_factor=2
    )
    _save(directory, processor, config, {"image_seq_len": processor.image_seq_len})
    return ProcessorFamily("smolvlm", directory, tokenizer, processor, config)


def _llava(directory: Path, pixels: dict[str, Any]) -> ProcessorFamily:
    tokenizer = _tokenizer(directory, "<image>", "<video>")
    sizes = {"size": {"height": SIDE, "width": SIDE}, "image_grid_pinpoints": _GRIDS}
    images = hf.LlavaOnevisionImageProcessorPil(**{**sizes, **pixels})
    own = {"num_image_tokens": (SIDE // PATCH) ** 2, "vision_feature_select_strategy": "full"}
    processor = _LlavaProcessor(images, tokenizer, None, **own)
    config = hf.LlavaOnevisionConfig(
        text_config=TINY_TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config=_VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=_GRIDS,
    )
    _save(directory, processor, config, own)
    return ProcessorFamily("llava_onevision", directory, tokenizer, processor, config)


def _tokenizer(directory: Path, *tokens: str) -> Any:
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(small_tokenizer(directory / "base.json")),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens], special_tokens=True)
    (directory / "base.json").unlink()
    return tokenizer


def _save(directory: Path, processor: Any, config: Any, own: dict[str, Any]) -> None:
    for part in (processor.tokenizer, processor.image_processor, config):
        part.save_pretrained(directory)
    named = type(processor).__mro__[2].__name__
    (directory / "processor_config.json").write_text(json.dumps({"processor_class": named, **own}))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
