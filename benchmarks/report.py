"""A line of the acceptance table, the machine it was measured on, and how both are printed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.rounds import Ratio
from owl_stream.engine.cores import usable_cores

LIBRARIES = (
    "owl-stream", "numpy", "torch", "webdataset", "Pillow", "simplejpeg", "cykooz.resizer", "tokenizers", "uvicorn",
    "uvloop", "xxhash",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One claim: a measured value, and what it has to be. `number` is that of the acceptance list."""

    number: str
    claim: str
    value: Ratio
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the median is within its bound."""
        above = self.at_least is None or self.value.median >= self.at_least
        return above and (self.at_most is None or self.value.median <= self.at_most)

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {**vars(self), "value": vars(self.value), "holds": self.holds}


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": usable_cores(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def show(lines: Sequence[Line]) -> None:
    """Print the table."""
    width = max(len(line.claim) for line in lines)
    for line in lines:
        verdict = "holds" if line.holds else "FAILS"
        print(f"{line.number:>3}  {line.claim:{width}}  {line.bound:>8}  {line.value!s:>26} {line.unit:6} {verdict}")


def show_contenders(kind: str, report: dict[str, Any]) -> None:
    """Print the contenders of a workload."""
    columns = f"{'images/s':>9}{'least':>10}{'greatest':>10}{'CPU ms/image':>15}{'on the host':>13}{'kB/image':>10}"
    print(f"\n{kind:20}{columns}")
    for name, row in sorted(report["contenders"].items(), key=lambda item: -item[1]["images_per_s"]):
        print(
            f"  {name:18}{row['images_per_s']:>9.0f}{row['least']:>10.0f}{row['greatest']:>10.0f}"
            f"{row['cpu_ms_per_image']:>15.2f}{row['host_cpu_ms_per_image']:>13.2f}{row['kb_per_image']:>10.0f}"
        )
    for name, why in report["not_measured"].items():
        print(f"  {name:18} not measured: {why}")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
