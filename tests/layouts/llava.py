"""LLaVA-1.5 as it lies on a disk, small: for layouts that are not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import AddedToken

from tests.support.families import TEMPLATES
from tests.support.tokenizer import small_tokenizer

SIDE = 56


def llava_model(directory: Path) -> Any:
    """Write the model's directory; returns its processor."""
    directory.mkdir()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(small_tokenizer(directory / "tokenizer.json")),
        pad_token="<|endoftext|>",
        padding_side="right",
    )
    tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = hf.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(directory)
    config = hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    config.save_pretrained(directory)
    (directory / "chat_template.jinja").write_text((TEMPLATES / "llava.jinja").read_text())
    return processor
