"""The real vocabulary and the sizes of the golden vectors' pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import skimage

from owl_stream.assemble.tokenizer import load_tokenizer
from owl_stream.layouts import Image, Tokenizer
from owl_stream.layouts.owl3 import TOKENS
from tests.support.qwen2 import qwen2_tokenizer_path


@pytest.fixture(scope="session")
def qwen2() -> Tokenizer:
    """The Qwen2 tokenizer that both releases use."""
    path = qwen2_tokenizer_path()
    return load_tokenizer(path.name, path.parent, TOKENS).build()


@pytest.fixture(scope="session")
def picture_size() -> Callable[[str], Image]:
    """The size of a picture of scikit-image's wheel, by file name."""

    def size(name: str) -> Image:
        with PIL.Image.open(Path(skimage.__file__).parent / "data" / name) as picture:
            return Image(*picture.size)

    return size
