"""Folders of images with captions: `cat.jpg` beside `cat.txt`, or a `metadata.jsonl` of {file_name, text}."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from owl_stream.errors import ConfigError, SampleError
from owl_stream.pack.documents import Documents
from owl_stream.pack.entry import Draft, Origin
from owl_stream.pack.unpackable import is_lfs_pointer
from owl_stream.records import (
    IMAGE_MARKER,
    Message,
    RecordOptions,
    find_conversation,
    is_conversation,
    judge_caption,
)
from owl_stream.shards.junk import is_junk
from owl_stream.shards.media import IMAGE_SUFFIXES
from owl_stream.shards.source import open_regular

METADATA = "metadata.jsonl"
CAPTION_SUFFIXES = ("txt", "caption")
MAX_CAPTION_BYTES = 16 << 20


class Folder:
    """A folder's samples, in the order of its metadata file or else of the images' paths, subfolders included.

    Iterating yields (origin, draft, or the SampleError that it is instead). `position` and `size` count files or bytes.
    """

    def __init__(self, path: Path, prompt: str, on_unknown_field: Literal["count", "refuse"] = "count") -> None:
        self.path, self._prompt, self._on_unknown_field = path, prompt, on_unknown_field
        metadata = path / METADATA
        self._documents = Documents(metadata) if metadata.is_file() else None
        self._files = [] if self._documents is not None else _files(path)
        self._done = 0

    @property
    def inputs(self) -> list[Path]:
        """The folder, and its metadata file if it has one."""
        return [self.path, *(self._documents.inputs if self._documents is not None else ())]

    @property
    def position(self) -> int:
        """How far the iteration is."""
        return self._documents.position if self._documents is not None else self._done

    @property
    def size(self) -> int:
        """What `position` is at the end."""
        return self._documents.size if self._documents is not None else len(self._files)

    def __iter__(self) -> Iterator[tuple[Origin, Draft | SampleError]]:
        return self._listed(self._documents) if self._documents is not None else self._beside()

    def _listed(self, documents: Documents) -> Iterator[tuple[Origin, Draft | SampleError]]:
        for number, line, record in documents:
            origin = Origin(str(documents.path), line, number)
            if isinstance(record, SampleError):
                yield origin, record
                continue
            if isinstance(record, list):
                yield origin, SampleError("record_type", "expected an object with `file_name` and `text`, got a list")
                continue
            name, text = record.get("file_name"), record.get("text")
            if isinstance(name, str) and name and isinstance(text, str):
                yield origin, self._described(name, text, record)
            else:
                shown = ", ".join(f"`{field[:40]}`" for field in list(record)[:8]) or "no field at all"
                yield origin, SampleError("record_field", f"expected `file_name` and `text`, both text, got {shown}")

    def _described(self, name: str, text: str, record: Mapping[str, Any]) -> Draft | SampleError:
        """The draft of a line of metadata, whose other fields mean what they mean in every record."""
        others = {field: value for field, value in record.items() if field not in ("file_name", "text")}
        try:
            notes = judge_caption(others, RecordOptions(self._on_unknown_field))
        except SampleError as exc:
            return exc
        draft = self._draft(name, text)
        literal = others.get("literal_markers") is True
        return draft if isinstance(draft, SampleError) else replace(draft, literal=literal, notes=notes)

    def _beside(self) -> Iterator[tuple[Origin, Draft | SampleError]]:
        captions: dict[str, list[str]] = {}
        for name in self._files:
            if _split(name)[1] in CAPTION_SUFFIXES:
                captions.setdefault(_split(name)[0], []).append(name)
        stems = {_split(name)[0] for name in self._files if _split(name)[1] in IMAGE_SUFFIXES}
        for name in self._files:
            self._done += 1
            stem, suffix = _split(name)
            origin = Origin(str(self.path / name))
            if suffix in IMAGE_SUFFIXES:
                found = captions.get(stem, [])
                if len(found) > 1:
                    both = f"both {found[0]} and {found[1]} beside the image; keep one"
                    yield origin, SampleError("record_ambiguous", both)
                elif not found:
                    yield origin, SampleError("caption_missing", f"expected its caption in {Path(stem).name}.txt")
                else:
                    yield origin, self._captioned(name, found[0])
            elif suffix in CAPTION_SUFFIXES and stem not in stems:
                yield origin, SampleError("image_missing", "a caption without an image of the same name")

    def _captioned(self, image: str, caption: str) -> Draft | SampleError:
        path = self.path / caption
        document = path.with_suffix(".json")
        try:
            if document.is_file() and find_conversation(memoryview(document.read_bytes()), is_conversation) is not None:
                detail = f"{document} holds a conversation beside the caption; remove one of them"
                return SampleError("record_ambiguous", detail)
            if path.stat().st_size > MAX_CAPTION_BYTES:
                return SampleError("record_too_long", f"{path}: a caption of more than {MAX_CAPTION_BYTES} bytes")
            if is_lfs_pointer(path, path.stat().st_size):
                detail = f"{path}: a Git LFS pointer, not the caption; fetch it with `git lfs pull`"
                return SampleError("caption_lfs_pointer", detail)
            with open(open_regular(path), encoding="utf-8-sig") as file:
                draft = self._draft(image, file.read())
            return draft if isinstance(draft, SampleError) else replace(draft, source=str(path))
        except UnicodeDecodeError:
            return SampleError("text_utf8", f"{path}: expected UTF-8")
        except OSError as exc:
            return SampleError("caption_missing", f"{path}: cannot read it: {exc.strerror}")

    def _draft(self, image: str, text: str) -> Draft | SampleError:
        if not text.strip():
            return SampleError("record_empty", "the caption is empty")
        asked = f"{IMAGE_MARKER}\n{self._prompt}" if self._prompt else IMAGE_MARKER
        return Draft((Message("user", asked), Message("assistant", text.strip())), (image,))


def _files(path: Path) -> list[str]:
    """Names of all files below `path`, relative to it, sorted by their parts.

    Hidden files and folders are passed over, and what operating systems and tools leave (docs/tars.md lists it); links
    to folders are not followed.
    """
    names: list[str] = []

    def fail(exc: OSError) -> None:
        raise ConfigError(f"{exc.filename}: cannot list it: {exc.strerror}") from exc

    for directory, folders, files in os.walk(path, onerror=fail):
        folders[:] = [name for name in folders if not _is_passed_over(name)]
        inside = os.path.relpath(directory, path)
        names += [name if inside == "." else f"{inside}/{name}" for name in files if not _is_passed_over(name)]
    return sorted(names, key=lambda name: name.split("/"))


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or is_junk(name)


def _split(name: str) -> tuple[str, str]:
    """(name without suffix, suffix in lower case)."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, suffix.lower()) if dot else (name, "")
