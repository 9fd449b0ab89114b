"""What replaces an image in Gemma 3's text, and which tokens see each other in both directions.

Source: `Gemma3Processor.replace_image_token` and `ProcessorMixin.create_mm_token_type_ids` of transformers 5.23. There
a picture's marker in the text is `<start_of_image>`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.placeholders import Replacement


class ImageTokens(NamedTuple):
    """Names of tokens, as the model's tokenizer has them: `boi_token`, `image_token`, `eoi_token`."""

    begin: str = "<start_of_image>"
    soft: str = "<image_soft_token>"
    end: str = "<end_of_image>"


def image_text(crops: int, tokens_per_image: int, names: ImageTokens) -> Replacement:
    """The text of a picture with `crops` crops beside it: a run for the whole picture, then one for each crop.

    The line ends around it merge with those of the text beside it, so the text must be tokenised as a whole.
    """
    image = f"\n\n{names.begin}{names.soft}{names.end}\n\n"
    runs = (tokens_per_image,) * (1 + crops)
    if not crops:
        return Replacement(image, runs)
    cropped = " ".join([image] * crops)
    text = f"Here is the original image {image} and here are some crops to help you see better {cropped}"
    return Replacement(text, runs)


def token_types(input_ids: NDArray[np.int64], soft_token_id: int) -> NDArray[np.int64]:
    """`token_type_ids`: int64, shaped as `input_ids`: 1 for tokens of pictures, 0 for text, padding and the two marks.

    The model lets each run of ones see itself in both directions. Without the tensor it is causal throughout and says
    nothing, so rows without pictures have zeros.
    """
    types: NDArray[np.int64] = (input_ids == soft_token_id).astype(np.int64)
    return types
