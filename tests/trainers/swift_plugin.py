"""The tests' own plugin for ms-swift, beside owl-stream's: logs what is trained on, and does without torchvision.

`OWL_TEST_ROWS` names the directory of the log; at the step `OWL_TEST_KILL_AT` ("epoch step") the process dies.
torchvision does not load beside the torch that is pinned here, and only videos and faster processors need it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers

from owl_client.hf import OwlStreamMixin
from tests.support.families import Qwen25Processor
from tests.trainers.model import Log


def import_qwen_vl_utils() -> None:
    """It imports torchvision for videos only."""
    stand_ins = {name: ModuleType(name) for name in ("torchvision", "torchvision.io", "torchvision.transforms")}
    stand_ins["torchvision"].io = stand_ins["torchvision.io"]  # type: ignore[attr-defined] # of a stand-in
    stand_ins["torchvision"].transforms = stand_ins["torchvision.transforms"]  # type: ignore[attr-defined] # as above
    stand_ins["torchvision.transforms"].InterpolationMode = object  # type: ignore[attr-defined] # as above
    sys.modules |= stand_ins
    import qwen_vl_utils  # noqa: F401 # once imported, it is not imported again

    for name in stand_ins:
        del sys.modules[name]


class Processor(Qwen25Processor):
    """A model's own, without the part for videos."""

    @classmethod
    def from_pretrained(cls, directory: str, **_: Any) -> Processor:
        """Made of the files of its parts."""
        images = transformers.Qwen2VLImageProcessorPil.from_pretrained(directory)
        return cls(images, transformers.PreTrainedTokenizerFast.from_pretrained(directory), None)

    def save_pretrained(self, directory: str, **_: Any) -> None:
        """The parts that are there."""
        for part in (self.tokenizer, self.image_processor):
            part.save_pretrained(directory)


def log_rows() -> None:
    """Before a batch is trained on, its rows are logged."""
    former = OwlStreamMixin.training_step
    kill_at = os.environ.get("OWL_TEST_KILL_AT")
    epoch, _, step = (kill_at or "").partition(" ")
    log = Log(Path(os.environ["OWL_TEST_ROWS"]), (int(epoch), int(step)) if kill_at else None)

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        log.note(inputs.meta)
        return former(self, model, inputs, *args, **kwargs)

    OwlStreamMixin.training_step = training_step  # type: ignore[method-assign] # for this process


import_qwen_vl_utils()
transformers.AutoProcessor.from_pretrained = Processor.from_pretrained
if "OWL_TEST_ROWS" in os.environ:
    log_rows()
