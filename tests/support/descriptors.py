"""What this process holds open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def open_below(directory: Path, suffix: str) -> int:
    """Descriptors of this process whose file lies below a directory and has this suffix."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that listed them is closed
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            found += path.startswith(f"{directory}/") and path.endswith(suffix)
    return found
