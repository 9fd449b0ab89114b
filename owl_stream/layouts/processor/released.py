"""A model's own processor: made by transformers from the model's files, and asked for batches.

Nothing of a model's own code is run (`trust_remote_code` is off), and no network is asked.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError
from owl_stream.layouts.processor.files import Files
from owl_stream.layouts.types import Tokens

Picture = NDArray[np.uint8]
"""uint8 [height, width, 3]."""

Arrays = dict[str, NDArray[Any]]

INSTALL = "`pip install 'owl-stream[processor]'`"

_RAW = {"do_rescale": False, "do_normalize": False}
"""What leaves pixels as bytes."""


class Answer(NamedTuple):
    """What a processor makes of texts and pictures.

    `tensors`: as it returns them, padded on the right. `texts`: each as it was tokenised, with pictures' text in place.
    """

    tensors: Arrays
    texts: tuple[str, ...]


class Released:
    """One processor. Threads take turns at it.

    `image_token`: what the processor replaces by a picture's text, and `image_token_id` its id. `token`: how the
    vocabulary writes that id. `settings`: those of the image processor.
    """

    def __init__(self, processor: Any, tokenizer_json: str) -> None:
        self._processor, self._json, self._lock = processor, tokenizer_json, threading.Lock()
        self._heard: list[str] = []
        self.image_token = str(processor.image_token)
        self.pad_token: str | None = processor.tokenizer.pad_token
        self.bos_token: str | None = processor.tokenizer.bos_token
        self.settings: Mapping[str, Any] = processor.image_processor.to_dict()
        _listen(processor.tokenizer, self._heard)

    @property
    def others(self) -> tuple[str, ...]:
        """Tokens beside `image_token` that stand for a picture in some family's texts."""
        names = ("boi_token", "image_token", "begin_image_token", "start_of_image_token")
        owners = (self._processor, self._processor.tokenizer)
        found = [getattr(owner, name, None) for owner in owners for name in names]
        return tuple(token for token in found if isinstance(token, str))

    def ask(self, texts: Sequence[str], pictures: Sequence[Sequence[Picture]], *, raw: bool = False) -> Answer:
        """A batch: one text a row, and the pictures of each. `raw`: pixels are neither scaled nor normalised.

        Raises:
            Exception: whatever the processor raises.
        """
        from PIL import Image  # noqa: PLC0415 # layouts import numpy only, unless this one is chosen

        images = [[Image.fromarray(picture) for picture in row] for row in pictures]
        options: dict[str, Any] = {"padding": True, "padding_side": "right", "return_tensors": "np"}
        if self.bos_token is not None and texts[0].startswith(self.bos_token):
            options["add_special_tokens"] = False  # as transformers does behind a chat template
        if any(images):
            options.update(images=images, **(_RAW if raw else {}))
        with self._lock:
            self._heard.clear()
            found = self._processor(text=list(texts), **options)
            return Answer({name: np.asarray(value) for name, value in found.items()}, tuple(self._heard))

    def tokenizer(self) -> FileTokenizer:
        """The tokenizer of the model's file, as rows are tokenised."""
        return FileTokenizer(self._json, self.pad_token or "")


class FileTokenizer:
    """A `tokenizers` file; satisfies `owl_stream.layouts.Tokenizer`."""

    def __init__(self, content: str, pad: str) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 # layouts import numpy only, unless this one is chosen

        self._backend = Tokenizer.from_str(content)
        self._backend.no_padding()
        self._backend.no_truncation()
        self.pad_id = int(self.id_of(pad) or 0)

    def id_of(self, token: str) -> int | None:
        """The id of a token, if there is one."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def encode(self, text: str) -> Tokens:
        """See `Tokenizer.encode`."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return Tokens(encoding.ids, encoding.offsets)


@lru_cache(maxsize=4)
def make_released(files: Files, vision: str) -> Released:
    """The processor of a model's files; `vision`: JSON of settings that replace the image processor's.

    Raises:
        ConfigError: transformers is not installed, or makes no processor of these files; the message has its words.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers  # noqa: F401, PLC0415 # slow to import, and only for who chooses this layout
    except ImportError as exc:
        raise ConfigError(f"it needs transformers: {INSTALL}") from exc
    with tempfile.TemporaryDirectory(prefix="owl-processor-") as directory:
        for file, text in files:
            Path(directory, file).write_text(text, encoding="utf-8")
        try:
            return Released(_load(directory, json.loads(vision)), dict(files)["tokenizer.json"])
        except ConfigError:
            raise
        except Exception as exc:  # whatever transformers raises
            raise ConfigError(
                f"transformers makes no processor of its files: {told(exc).replace(directory, 'its directory')}"
            ) from exc


def told(exc: Exception) -> str:
    """What went wrong in code that is not ours, in one line."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:400]


def _load(directory: str, vision: Mapping[str, Any]) -> Any:
    """The processor with its tokenizer and Pillow's image processor; other parts, such as that of videos, are left out.

    The class checks its parts, and would refuse to be without them: videos' want torchvision.
    """
    import transformers  # noqa: PLC0415 # see `make_released`

    options = {"local_files_only": True, "trust_remote_code": False}
    given = transformers.ProcessorMixin.get_processor_dict(directory, **options)[0]
    chosen = _class_of(directory, given)
    unchecked = {"check_argument_for_proper_class": lambda self, argument, value: type(value)}
    made: Any = type(chosen.__name__, (chosen,), unchecked)
    parts: list[Any] = []
    for part in chosen.get_attributes():
        if part == "tokenizer":
            parts.append(transformers.AutoTokenizer.from_pretrained(directory, **options))
        elif part == "image_processor":
            images = transformers.AutoImageProcessor.from_pretrained(directory, backend="pil", **options)
            parts.append(_changed(images, vision))
        else:
            parts.append(None)
    processor = made.from_args_and_dict(parts, given)
    for needed in ("tokenizer", "image_processor", "image_token"):
        if getattr(processor, needed, None) is None:
            raise ConfigError(f"{chosen.__name__}: expected a processor with `{needed}`, got none")
    return processor


def _class_of(directory: str, given: Mapping[str, Any]) -> Any:
    """The processor's class: as the files name it, else by the model's family."""
    import transformers  # noqa: PLC0415 # see `make_released`
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES  # noqa: PLC0415 # see `make_released`

    configs = [given]
    for file in ("preprocessor_config.json", "tokenizer_config.json", "config.json"):
        path = Path(directory, file)
        configs.append(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
    named = [config["processor_class"] for config in configs if config.get("processor_class")]
    named += [PROCESSOR_MAPPING_NAMES.get(configs[-1].get("model_type", ""), "")]
    for each in named:
        found = getattr(transformers, each, None) if isinstance(each, str) and each else None
        if isinstance(found, type) and issubclass(found, transformers.ProcessorMixin):
            return found
    raise ConfigError(
        f"expected `processor_class` in processor_config.json, or a `model_type` in config.json, that "
        f"transformers {transformers.__version__} has a processor for, got {named or 'none'}"
    )


def _changed(images: Any, vision: Mapping[str, Any]) -> Any:
    """The image processor with other settings."""
    known = {key: value for key, value in images.to_dict().items() if not key.endswith("_type")}
    for key in vision:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(known))}"
            raise ConfigError(
                f"unknown key `vision.{key}`: the image processor {type(images).__name__} has none; {hint}"
            )
    return type(images)(**{**known, **vision}) if vision else images


def _listen(tokenizer: Any, heard: list[str]) -> None:
    """Have a tokenizer write down what it is asked to tokenise.

    Every processor hands its tokenizer the texts with pictures in place. There is no other way to them that all have.
    """
    known: Any = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **options: Any) -> Any:
        heard.extend([text] if isinstance(text, str) else text or [])
        return known.__call__(self, text, *args, **options)

    tokenizer.__class__ = type(known.__name__, (known,), {"__call__": call})
