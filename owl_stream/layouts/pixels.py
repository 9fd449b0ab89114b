"""How a picture's colours become planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.types import Pixels


def planes(pixels: Pixels) -> NDArray[np.uint8]:
    """The same pixels as uint8 [3, height, width], RGB; a view."""
    return pixels[..., :3].transpose(2, 0, 1)
