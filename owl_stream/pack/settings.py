"""What to pack, into what, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class PackSettings:
    """What to pack, and into what. `images`: the root of image names, by default each input's own directory.

    A shard is full before it would exceed `shard_bytes` or `shard_samples`. `prompt` asks about captioned images.
    `begin`: "auto" goes on with an unfinished run of the same settings, and is refused where one of other settings has
    written shards; "resume" is refused where there is nothing to go on with; "force" removes what an earlier run of
    this name has written, and starts anew.
    """

    inputs: tuple[Path, ...]
    out: Path
    name: str = "train"
    format: str = "auto"
    images: Path | None = None
    allow_outside: bool = False
    prompt: str = ""
    shard_bytes: int = 512 << 20
    shard_samples: int = 10_000
    on_bad: Literal["skip", "fail"] = "skip"
    on_unknown_field: Literal["count", "refuse"] = "count"
    begin: Literal["auto", "resume", "force"] = "auto"

    def identity(self) -> dict[str, Any]:
        """What a restart must have in common with the run that it continues."""
        return {
            "inputs": [str(path.resolve()) for path in self.inputs],
            "format": self.format,
            "images": None if self.images is None else str(self.images.resolve()),
            "prompt": self.prompt,
            "shard_bytes": self.shard_bytes,
            "shard_samples": self.shard_samples,
            **({"on_unknown_field": "refuse"} if self.on_unknown_field == "refuse" else {}),
        }


@dataclass(frozen=True)
class PackProgress:
    """How far it is: share of the input read (0 to 1), samples and shards that are cut."""

    share: float
    samples: int
    shards: int
