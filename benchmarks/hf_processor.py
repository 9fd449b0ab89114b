"""What people run for Qwen2.5-VL: webdataset and a torch DataLoader with two workers, which call the model's processor.

The processor resizes, cuts patches, normalises, tokenises and pads. It is transformers' own, with its Pillow image
processor: the other one needs torchvision.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from benchmarks.usual import random_batches
from benchmarks.workload import Workload

Sample = tuple[list[dict[str, Any]], Image.Image]


@dataclass(frozen=True)
class ProcessorRecipe:
    """Samples -> a batch; picklable, so that worker processes can have it."""

    workload: Workload

    @cached_property
    def _processor(self) -> Any:
        import transformers as hf  # noqa: PLC0415 # most contenders need it not

        class Processor(hf.Qwen2_5_VLProcessor):  # type: ignore[misc] # transformers is untyped
            """Without a video processor, which needs torchvision."""

            def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
                """Nothing is checked."""
                return type(argument)

        model = self.workload.model
        tokenizer = hf.AutoTokenizer.from_pretrained(model, padding_side="right")
        return Processor(hf.Qwen2VLImageProcessorPil.from_pretrained(model), tokenizer, None)

    def sample(self, sample: Mapping[str, Any]) -> Sample:
        """One webdataset-like sample, `jpg` and `json` as bytes."""
        messages = json.loads(bytes(sample["json"]))["messages"]
        question = messages[0]["content"].removeprefix("<|image|>")
        messages[0]["content"] = [{"type": "image"}, {"type": "text", "text": question}]
        with Image.open(io.BytesIO(bytes(sample["jpg"]))) as picture:
            return messages, picture.convert("RGB")

    def batch(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """What the processor returns, and labels without padding and pictures, as its examples make them."""
        processor = self._processor
        texts = [processor.tokenizer.apply_chat_template(messages, tokenize=False) for messages, _ in samples]
        images = [image for _, image in samples]
        batch = dict(processor(text=texts, images=images, padding=True, return_tensors="pt"))
        labels = batch["input_ids"].clone()
        labels[(batch["attention_mask"] == 0) | (labels == processor.image_token_id)] = -100
        return {**batch, "labels": labels}


def processor_loader(workload: Workload) -> Callable[[], Iterator[dict[str, torch.Tensor]]]:
    """Epoch after epoch of random batches."""
    recipe = ProcessorRecipe(workload)
    return random_batches(workload, recipe.sample, recipe.batch)
