"""What a model's directory, or its repository on the hub, says: configuration, pixel settings, tokens, chat template.

Files are read as text and JSON; no code of the model is run, and no weight is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from owl_stream.errors import ConfigError

PROCESSOR_FILE = "processor_config.json"

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

_CONFIG, _PROCESSOR, _TOKENIZER_CONFIG = "config.json", PROCESSOR_FILE, "tokenizer_config.json"
_IMAGES, _VIDEOS = "preprocessor_config.json", "video_preprocessor_config.json"
_TEMPLATE, _TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
_MOST_BYTES = 16 << 20
"""Of a file with settings; a tokenizer has more, and is read elsewhere."""


@dataclass(frozen=True)
class ModelFiles:
    """The settings of one model. `name`: what the configuration calls it. `files`: their JSON, by file name.

    `template`: the chat template, None where there is none. `directory`: where they lie on this machine.
    """

    name: str
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)
    template: str | None = field(default=None, repr=False)
    directory: Path | None = field(default=None, repr=False)

    @property
    def model_type(self) -> str:
        """The family, as `config.json` names it.

        Raises:
            ConfigError: it does not.
        """
        return str(self.need(_CONFIG, "model_type"))

    def config(self, key: str, default: Any = None) -> Any:
        """A value of `config.json`; `a.b` is key b of the object a."""
        return _find(self.files.get(_CONFIG, {}), key, default)

    def whole(self, key: str, default: int | None = None, *, least: int = 1, file: str = _CONFIG) -> int:
        """A whole number of at least `least`; without a default it has to be there.

        Raises:
            ConfigError: naming file and key.
        """
        found = self.need(file, key) if default is None else _find(self.files.get(file, {}), key, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            expected = f"a whole number of at least {least}"
            raise ConfigError(f"model {self.name}: {file}: `{key}`: expected {expected}, got {found!r:.80}")
        return found

    def need(self, file: str, key: str) -> Any:
        """A value that has to be there.

        Raises:
            ConfigError: naming file and key.
        """
        found = _find(self.files.get(file, {}), key, None)
        if found is None:
            lacks = f"{file} lacks `{key}`" if file in self.files else f"no {file}"
            raise ConfigError(f"model {self.name}: {lacks}; save it again with `save_pretrained`, or set it by hand")
        return found

    def need_config(self, key: str) -> Any:
        """A value of `config.json` that has to be there.

        Raises:
            ConfigError: it is not.
        """
        return self.need(_CONFIG, key)

    @property
    def images(self) -> Mapping[str, Any]:
        """Settings of the image processor.

        Raises:
            ConfigError: neither file that may hold them does.
        """
        found = self._processor("image_processor", _IMAGES)
        if found is None:
            raise ConfigError(
                f"model {self.name}: no {_IMAGES}, and no `image_processor` in {_PROCESSOR}; save the processor there: "
                "AutoProcessor.from_pretrained(...).save_pretrained(DIRECTORY)"
            )
        return found

    @property
    def videos(self) -> Mapping[str, Any]:
        """Settings of the video processor; without them those of images, as transformers takes them."""
        return self._processor("video_processor", _VIDEOS) or self.files.get(_IMAGES, {})

    def processor(self, key: str, default: Any = None) -> Any:
        """A value of `processor_config.json`."""
        return _find(self.files.get(_PROCESSOR, {}), key, default)

    def token(self, key: str, default: str | None = None) -> str | None:
        """A special token by its name in `tokenizer_config.json` (`pad_token`): a text, or an object with `content`."""
        found = self.files.get(_TOKENIZER_CONFIG, {}).get(key, default)
        if isinstance(found, Mapping):
            found = found.get("content", default)
        return found if isinstance(found, str) else default

    @property
    def tokens(self) -> dict[str, str]:
        """All special tokens of `tokenizer_config.json` by name, as chat templates read them."""
        names = [name for name in self.files.get(_TOKENIZER_CONFIG, {}) if name.endswith("_token")]
        return {name: token for name in names if (token := self.token(name)) is not None}

    def _processor(self, key: str, file: str) -> Mapping[str, Any] | None:
        """`processor_config.json` holds it since transformers 5; a file of its own before."""
        nested = self.files.get(_PROCESSOR, {}).get(key)
        return nested if isinstance(nested, Mapping) else self.files.get(file)


def open_model(spec: str, base: Path) -> ModelFiles:
    """Read a model's settings: a directory, relative to `base`, or else a hub id (`org/name`), which asks the network.

    Raises:
        ConfigError: not found, or a file that is no JSON object.
    """
    directory = base / spec
    if not directory.is_dir():
        directory = _from_hub(spec, directory)
    files = {}
    for name in (_CONFIG, _PROCESSOR, _TOKENIZER_CONFIG, _IMAGES, _VIDEOS, _TEMPLATE_JSON):
        text = _read(directory / name)
        if text is not None:
            files[name] = _parsed(directory / name, text)
    return ModelFiles(spec, files, _template(directory, files), directory)


def _template(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    if (text := _read(directory / _TEMPLATE)) is not None:
        return text
    for name in (_TEMPLATE_JSON, _PROCESSOR, _TOKENIZER_CONFIG):
        found = files.get(name, {}).get("chat_template")
        if isinstance(found, list):  # several by name, as tokenizers had them
            named = [each for each in found if isinstance(each, dict)]
            found = next((each.get("template") for each in named if each.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return None


def _read(path: Path) -> str | None:
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: expected at most {_MOST_BYTES} bytes of settings, got {path.stat().st_size}")
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read it: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: expected UTF-8: {exc.reason} at byte {exc.start}") from exc


def _parsed(path: Path, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: expected JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _find(values: Mapping[str, Any], key: str, default: Any) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return default if found is None else found


def _from_hub(spec: str, path: Path) -> Path:
    reason = f"no directory {path}"
    if HUB_ID.fullmatch(spec):
        try:
            from huggingface_hub import snapshot_download  # noqa: PLC0415 # slow to import, and rarely needed

            patterns = ["*.json", "*.jinja"]
            return Path(snapshot_download(spec, allow_patterns=patterns, ignore_patterns=["*.index.json"]))
        except Exception as exc:  # whatever the network stack of the day raises
            reason += f", and the hub says: {' '.join(str(exc).split())}"
    raise ConfigError(
        f"model not found: expected a directory or a hub id (org/name), got {spec!r}: {reason}; for a machine without "
        "network: `hf download ORG/NAME --include '*.j*' --local-dir DIRECTORY` (JSON and Jinja), and name that "
        "directory"
    )
