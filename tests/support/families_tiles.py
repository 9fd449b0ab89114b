"""InternVL and Gemma 3 as transformers has them, small and without a hub: tokenizers, processors, tiny models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken

from tests.support.tokenizer import small_tokenizer

SIDE, TOKENS = 56, 4
"""Of a tile or picture: pixels, and tokens: 4 x 4 patches of 14 pixels, four of which become one token."""

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


class InternVLProcessor(transformers.InternVLProcessor):
    """The released class, which also takes a video processor that is none of transformers' (these need torchvision)."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        """Without the check nothing else of it changes."""
        return type(argument)


class Frames:
    """Stands in for the video processor: frames resized by Pillow, float32 [videos, frames, 3, side, side]."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, videos: list[list[Image.Image]], **_: Any) -> dict[str, torch.Tensor]:
        """All videos must have the same number of frames, as with the released class."""
        frames = [[frame.resize((self.side, self.side), Image.Resampling.BICUBIC) for frame in v] for v in videos]
        return {"pixel_values_videos": torch.from_numpy(np.array(frames, np.float32).transpose(0, 1, 4, 2, 3))}


def internvl_tokenizer(directory: Path, **settings: Any) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE with the named tokens of InternVL's tokenizer; its file is written to `directory`."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(small_tokenizer(directory / "tokenizer.json")),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
        **settings,
    )


def internvl_processor(
    tokenizer: transformers.PreTrainedTokenizerFast, side: int = SIDE, tokens: int = TOKENS, **pixels: Any
) -> transformers.InternVLProcessor:
    """`pixels`: settings of the image processor beside the tile's side."""
    images = transformers.GotOcr2ImageProcessorPil(size={"height": side, "width": side}, **pixels)
    return InternVLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=Frames(side), image_seq_length=tokens
    )


def internvl_model(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.InternVLForConditionalGeneration:
    """Random weights from a fixed seed, for tiles of `SIDE` pixels, in eval mode."""
    torch.manual_seed(0)
    config = transformers.InternVLConfig(
        text_config=_TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config=_VISION | {"image_size": [SIDE, SIDE], "patch_size": [14, 14]},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=TOKENS,
        downsample_ratio=0.5,
    )
    return transformers.InternVLForConditionalGeneration(config).eval()


@cache
def gemma_tokenizer() -> transformers.GemmaTokenizer:
    """The released class with a vocabulary of ASCII and bytes. As in Gemma's, a run of line ends is one added token."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("▁a", "n"), ("▁an", "d"), ("g", "e"), (">", ">")]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n", *map(chr, range(33, 127))]
    tokenizer = transformers.GemmaTokenizer(
        vocab={name: index for index, name in enumerate([*names, *("".join(pair) for pair in merges)])},
        merges=merges,
        add_bos_token=True,
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )
    tokenizer.add_tokens([AddedToken("\n" * run, normalized=False) for run in range(2, 8)])
    return tokenizer


def gemma3_processor(side: int = SIDE, tokens: int = TOKENS, **pixels: Any) -> transformers.Gemma3Processor:
    """`pixels`: settings of the image processor beside the picture's side."""
    images = transformers.Gemma3ImageProcessorPil(size={"height": side, "width": side}, **pixels)
    return transformers.Gemma3Processor(image_processor=images, tokenizer=gemma_tokenizer(), image_seq_length=tokens)


def gemma3_model() -> transformers.Gemma3ForConditionalGeneration:
    """Random weights from a fixed seed, for pictures of `SIDE` pixels, in eval mode."""
    torch.manual_seed(0)
    tokenizer = gemma_tokenizer()
    config = transformers.Gemma3Config(
        text_config=_TEXT | {"vocab_size": len(tokenizer), "head_dim": 8, "sliding_window": 64},
        vision_config=_VISION | {"image_size": SIDE, "patch_size": 14},
        mm_tokens_per_image=TOKENS,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def noise(width: int, height: int) -> NDArray[np.uint8]:
    """A picture in which no two parts are alike, uint8 [height, width, 4] as a decoder makes them."""
    pixels = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 4))
    return np.ascontiguousarray(pixels, np.uint8)


def pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    """The same picture as a processor takes it, RGB."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def normalised(pixels: NDArray[np.uint8], images: Any) -> NDArray[np.float64]:
    """uint8 [n, 3, S, S] as the model sees them, by an image processor's mean and standard deviation."""
    mean, std = (np.array(values)[:, None, None] for values in (images.image_mean, images.image_std))
    return (pixels / 255 - mean) / std


class Resizer:
    """Pillow's resize of RGBX pixels as layouts call it: what it returned last is overwritten by the next call."""

    def __init__(self, resample: Image.Resampling) -> None:
        self.resample = resample
        self.sizes: list[tuple[int, int]] = []
        self._last = np.empty(0, np.uint8)

    def __call__(self, pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 4]; refuses pixels that are not C-contiguous, as the product's resizers do."""
        self._last[...] = 77
        self.sizes.append((width, height))
        image = Image.frombuffer("RGBX", pixels.shape[1::-1], pixels, "raw", "RGBX", 0, 1)
        self._last = np.array(image.resize((width, height), self.resample))
        return self._last
