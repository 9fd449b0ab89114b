"""The Python of docs/trainers.md, section by section, to be run as it stands but for the server's address."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.trainers.model import Model

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trainers.md"


class Answering(torch.nn.Module):
    """The model, whose answer can be read as an object and as a dict: libraries differ in what they take."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, **batch: Any) -> Any:
        """A dict with attributes."""
        return _Answer(self.model(**batch))


class _Answer(dict[str, Any]):
    @property
    def loss(self) -> torch.Tensor:
        loss: torch.Tensor = self["loss"]
        return loss


def snippets() -> dict[str, list[str]]:
    """Blocks by section title."""
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    return {text.splitlines()[0]: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for text in sections}


def run(section: str, url: str, names: dict[str, Any] | None = None) -> SimpleNamespace:
    """Run a section's blocks, one after the other; returns the names that they leave."""
    model = Answering()
    space: dict[str, Any] = {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), **(names or {})}
    for block in snippets()[section]:
        exec(compile(block.replace("http://loader:8000", url), f"{DOCUMENT.name}, {section}", "exec"), space)
    return SimpleNamespace(**space)
