"""A model's files as content: what its processor is made from in any process, and what a fingerprint covers."""

from __future__ import annotations

from owl_stream.errors import ConfigError
from owl_stream.models import ModelFiles

Files = tuple[tuple[str, str], ...]
"""(name, text) of each file, by name."""

_MOST_BYTES = 128 << 20
"""Of all files together; the largest tokenizers have 40 MB."""

_NOT_READ = (".index.json",)
"""Ends of names that say where weights are."""


def read_files(model: ModelFiles) -> Files:
    """All JSON and Jinja files of a model's directory: configuration, processor, tokenizer, chat template.

    Raises:
        ConfigError: no tokenizer.json, a file that cannot be read, or more than a processor is made of.
    """
    assert model.directory is not None, "a model that was opened has a directory"
    found, nbytes = [], 0
    for path in sorted(model.directory.iterdir()):
        if path.suffix not in (".json", ".jinja") or path.name.endswith(_NOT_READ) or not path.is_file():
            continue
        try:
            nbytes += path.stat().st_size
            if nbytes > _MOST_BYTES:
                raise ConfigError(f"expected at most {_MOST_BYTES} bytes of JSON, got more")
            found.append((path.name, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: expected a file in UTF-8 that can be read: {exc}") from exc
    if "tokenizer.json" not in dict(found):
        raise ConfigError(
            "no tokenizer.json; have transformers write one: "
            "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
        )
    return tuple(found)
