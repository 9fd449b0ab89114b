"""Settings of a model's image processor, read as transformers reads them; what cannot be done is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owl_stream.errors import ConfigError
from owl_stream.layouts.types import Filter
from owl_stream.models import ModelFiles
from owl_stream.wire import Normalise

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of many image processors, where the files say nothing (`OPENAI_CLIP_MEAN`)."""

_FILTERS: Mapping[int, Filter] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
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
    """The settings of a model's image processor, or of the processor `of`; `defaults` are its class's own.

    A key that is null has no value, as in transformers: it does not mean the default.
    """

    def __init__(
        self, model: ModelFiles, values: Mapping[str, Any], *, of: str = "image processor", **defaults: Any
    ) -> None:
        self._name, self._values, self._defaults, self._of = model.name, values, defaults, of
        if not self._is_on("do_resize"):
            raise self._wrong("do_resize", "true", values["do_resize"])
        if not self._is_on("do_convert_rgb") and values["do_convert_rgb"] is not None:  # Gemma's files have null
            raise self._wrong("do_convert_rgb", "true", values["do_convert_rgb"])

    def get(self, key: str) -> Any:
        """A value, or its class's default; None where the file has null."""
        return self._values.get(key, self._defaults.get(key))

    def _is_on(self, key: str) -> bool:
        return bool(self._values.get(key, True))

    def whole(self, key: str, most: int = 1 << 20) -> int:
        """A whole number from 1 to `most`.

        Raises:
            ConfigError: it is none.
        """
        found = self.get(key)
        if not _is_whole(found, most):
            raise self._wrong(key, f"a whole number from 1 to {most}", found)
        return int(found)

    def side(self, *, shortest: bool = False) -> int:
        """The side of a square `size`: `{height, width}`, or a number.

        `shortest`: what is given is the side to which a picture's shorter one is resized: `{shortest_edge}`.

        Raises:
            ConfigError: it is something else, to which transformers would resize in another way.
        """
        size, names = self.get("size"), ["shortest_edge"] if shortest else ["height", "width"]
        sides = [size[name] for name in names] if isinstance(size, Mapping) and size.keys() == {*names} else [size]
        if not all(_is_whole(side, 4096) and side == sides[0] for side in sides):
            raise self._wrong("size", f"one number for {' and '.join(names)}", size)
        return int(sides[0])

    def limits(self, least: int, most: int) -> tuple[int, int]:
        """Pixels, least and most: `min_pixels` and `max_pixels`, else `size: {shortest_edge, longest_edge}`.

        `least`, `most`: the class's own, where there is no `size`.

        Raises:
            ConfigError: a number is missing, or none.
        """
        size = self.get("size")
        if size is None:
            size = {"shortest_edge": least, "longest_edge": most}
        edges = size if isinstance(size, Mapping) else {}
        found = []
        for key, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            given = self.get(key)
            if given is None and not _is_whole(edges.get(edge), 1 << 40):
                raise self._wrong("size", f"`{edge}`, a whole number of pixels", size)
            if given is not None and not _is_whole(given, 1 << 40):
                raise self._wrong(key, "a whole number of pixels", given)
            found.append(int(edges[edge] if given is None else given))
        return found[0], found[1]

    @property
    def filter(self) -> Filter:
        """Which filter resizes.

        Raises:
            ConfigError: one that we have not.
        """
        found = self.get("resample")
        if not _is_whole(found, max(_FILTERS)) or found not in _FILTERS:
            raise self._wrong("resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)", found)
        return _FILTERS[found]

    @property
    def colours(self) -> Colours:
        """Mean and deviation, with `do_rescale`, `rescale_factor` and `do_normalize` worked in.

        Raises:
            ConfigError: one of them is no number.
        """
        factor = self._values.get("rescale_factor", 1 / 255) if self._is_on("do_rescale") else 1.0
        if not _is_number(factor) or not factor:
            raise self._wrong("rescale_factor", "a number other than 0", factor)
        if not self._is_on("do_normalize"):
            mean: tuple[float, ...] = (0.0, 0.0, 0.0)
            std: tuple[float, ...] = (1.0, 1.0, 1.0)
        else:
            mean, std = self._three("image_mean"), self._three("image_std")
        scale = 1.0 if abs(factor * 255 - 1) < 1e-9 else 255 * factor
        return Colours(tuple(each / scale for each in mean), tuple(each / scale for each in std))

    def _three(self, key: str) -> tuple[float, ...]:
        found = self.get(key)
        found = [found] * 3 if isinstance(found, int | float) else found
        if not isinstance(found, Sequence) or len(found) != 3 or not all(map(_is_number, found)):
            raise self._wrong(key, "three numbers", found)
        if key == "image_std" and not all(found):
            raise self._wrong(key, "numbers other than 0", found)
        return tuple(float(each) for each in found)

    def _wrong(self, key: str, expected: str, got: object) -> ConfigError:
        return ConfigError(f"model {self._name}: {self._of}: `{key}`: expected {expected}, got {got!r:.80}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
