"""Settings of a model's image processor, read as transformers reads them; what cannot be done is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owl_stream.errors import ConfigError
from owl_stream.layouts.types import Filter
from owl_stream.models import ModelFiles
from owl_stream.wire import Normalise

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of many image processors, where the files say nothing (`OPENAI_CLIP_MEAN`)."""

_FILTERS: Mapping[int, Filter] = {2: "bilinear", 3: "bicubic"}
"""By Pillow's number, which the files hold."""


@dataclass(frozen=True)
class Colours:
    """What the client does to pixels: (x / 255 - mean) / std for each of three channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, *, axis: int = 1, repeat: int = 1, flatten: bool = False) -> Normalise:
        """The same as a schema says it."""
        return Normalise(self.mean, self.std, axis, repeat, flatten)


class ImageSettings:
    """The image processor's settings of a model; `defaults` are its class's own."""

    def __init__(self, model: ModelFiles, values: Mapping[str, Any], **defaults: Any) -> None:
        self._name, self._values, self._defaults = model.name, values, defaults
        for key in ("do_resize", "do_convert_rgb"):
            if values.get(key) is False:
                raise self._wrong(key, "true", False)

    def get(self, key: str) -> Any:
        """A value, or its class's default."""
        found = self._values.get(key)
        return self._defaults.get(key) if found is None else found

    def whole(self, key: str, most: int = 1 << 20) -> int:
        """A whole number from 1 to `most`.

        Raises:
            ConfigError: it is none.
        """
        found = self.get(key)
        if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= most:
            raise self._wrong(key, f"a whole number from 1 to {most}", found)
        return found

    def side(self) -> int:
        """The side of a square `size`: `{height, width}`, `{shortest_edge}`, or a number.

        Raises:
            ConfigError: it is no square.
        """
        size = self.get("size")
        sides = set(size.values()) if isinstance(size, Mapping) and size else {size}
        if len(sides) != 1 or not isinstance(side := sides.pop(), int) or not 1 <= side <= 4096:
            raise self._wrong("size", "one side for height and width", size)
        return side

    @property
    def filter(self) -> Filter:
        """Which filter resizes.

        Raises:
            ConfigError: neither bilinear nor bicubic.
        """
        found = self.get("resample")
        if found not in _FILTERS:
            raise self._wrong("resample", "2 (bilinear) or 3 (bicubic)", found)
        return _FILTERS[found]

    @property
    def colours(self) -> Colours:
        """Mean and deviation, with `do_rescale`, `rescale_factor` and `do_normalize` worked in."""
        factor = self.get("rescale_factor") if self.get("do_rescale") is not False else 1.0
        factor = 1 / 255 if factor is None else float(factor)
        if self.get("do_normalize") is False:
            mean: tuple[float, ...] = (0.0, 0.0, 0.0)
            std: tuple[float, ...] = (1.0, 1.0, 1.0)
        else:
            mean, std = self._three("image_mean"), self._three("image_std")
        scale = 1.0 if abs(factor * 255 - 1) < 1e-9 else 255 * factor
        return Colours(tuple(each / scale for each in mean), tuple(each / scale for each in std))

    def _three(self, key: str) -> tuple[float, ...]:
        found = self.get(key)
        found = [found] * 3 if isinstance(found, int | float) else found
        if not isinstance(found, Sequence) or len(found) != 3 or not all(isinstance(x, int | float) for x in found):
            raise self._wrong(key, "three numbers", found)
        if key == "image_std" and not all(found):
            raise self._wrong(key, "numbers other than 0", found)
        return tuple(float(each) for each in found)

    def _wrong(self, key: str, expected: str, got: object) -> ConfigError:
        return ConfigError(f"model {self._name}: image processor: `{key}`: expected {expected}, got {got!r:.80}")
