"""What a run has finished, so that the next one goes on: one line per shard, written when the shard is complete.

The first line holds the settings. It is written before the first shard; a run that ends without one leaves no journal.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

from owl_stream.errors import ConfigError
from owl_stream.pack.tar import TEMPORARY, PackedShard
from owl_stream.privacy import Readers, create, make_directory, tighten_open

MANIFEST = ".manifest.json"
BAD_LIST = ".bad.jsonl"
"""What follows a run's name in the names of the files that it writes last."""

Begin = Literal["auto", "resume", "force"]


class Journal:
    """The journal of the shards called `name` in `directory`, locked while it is open. A context manager.

    It trusts itself only as far as it can see: a shard counts as finished if its file is there with the bytes noted.
    `begin` is that of `PackSettings`. Only `readers` may read the journal, and the directory where it is made anew.

    Raises:
        ConfigError: the directory cannot be written, another run is at work, shards were written with other settings,
            there are shards of that name which no journal knows, or ("resume") there is nothing to go on with.
    """

    def __init__(
        self, directory: Path, name: str, settings: Mapping[str, Any], readers: Readers, begin: Begin = "auto"
    ) -> None:
        self._directory, self._name, self._settings, self._readers = directory, name, dict(settings), readers
        self._path = directory / f".{name}.pack.jsonl"
        self._done: dict[str, tuple[str, PackedShard]] = {}
        self._anew = True
        self._made = not directory.exists()
        try:
            make_directory(directory, readers)
            self._file = self._locked()
        except OSError as exc:
            raise ConfigError(f"{directory}: cannot write there: {exc.strerror}; choose another --out") from exc
        try:
            self._open(begin)
        except OSError as exc:
            self._close()
            raise ConfigError(f"{directory}: cannot list it: {exc.strerror}; choose another --out") from exc
        except BaseException:
            self._close()
            raise

    def finished(self, shard: str, assignment: str) -> PackedShard | None:
        """The shard, if an earlier run has written just this assignment and the file is still there."""
        known, packed = self._done.get(shard, ("", None))
        path = self._directory / shard
        if packed is None or known != assignment or not path.is_file() or path.stat().st_size != packed.nbytes:
            return None
        return packed

    def begin(self) -> None:
        """A shard is about to be written: what a run that is not continued has left goes away now, and not before."""
        if not self._anew:
            return
        self._anew = False
        for path in (*self._shards(), *(self._directory / f"{self._name}{end}" for end in (MANIFEST, BAD_LIST))):
            path.unlink(missing_ok=True)
        self._file.truncate(0)
        self._write({"settings": self._settings})

    def note(self, shard: PackedShard, assignment: str) -> None:
        """A shard is complete."""
        self._write({"assignment": assignment, **asdict(shard)})
        self._done[shard.name] = (assignment, shard)

    def forget_others(self, shards: set[str]) -> None:
        """Remove shards that earlier runs wrote and that the data does not fill any more."""
        for shard in self._done.keys() - shards:
            (self._directory / shard).unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        """Unlock; a journal that tells of no shard is removed, and so is a directory that was made for nothing."""
        with self._file, suppress(OSError):  # what cannot be tidied up must not hide how the run has ended
            self._remove_temporary()
            if os.fstat(self._file.fileno()).st_size == 0 or not self._shards():
                self._path.unlink(missing_ok=True)
                if self._made and not any(self._directory.iterdir()):
                    self._directory.rmdir()

    def _locked(self) -> BinaryIO:
        """The journal's file, locked; one that another run has removed meanwhile is opened again."""
        while True:
            file = self._opened()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                        return file
            except BlockingIOError as exc:
                file.close()
                raise ConfigError(f"{self._directory}: another run packs {self._name!r} there; wait for it") from exc
            file.close()

    def _opened(self) -> BinaryIO:
        """The journal's file, to be read and to be written at its end."""
        while True:
            with suppress(FileNotFoundError):
                file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
                tighten_open(file, self._readers, self._path)
                return os.fdopen(file, "a+b")
            with suppress(FileExistsError):  # another run was quicker
                return os.fdopen(create(self._path, self._readers, os.O_APPEND), "a+b")

    def _open(self, begin: Begin) -> None:
        self._remove_temporary()
        shards = self._shards()
        if shards and os.fstat(self._file.fileno()).st_size == 0:
            raise ConfigError(
                f"{shards[0]} is there already and is not of this command; choose another --out or --name, or move it"
            )
        if not shards and begin == "resume":
            raise ConfigError(f"{self._directory}: there are no shards of {self._name!r} to go on from: no --resume")
        if not shards or begin == "force":
            return
        first, *lines = self._read()
        self._compare(first)
        self._anew = False
        for line in lines:
            shard = PackedShard(line["name"], line["samples"], line["nbytes"], line["digest"])
            self._done[shard.name] = (line["assignment"], shard)

    def _shards(self, end: str = "") -> list[Path]:
        """The files that are shards of this name, and of no other (`train-val-000000.tar` is not one of `train`)."""
        form = re.compile(rf"{re.escape(self._name)}-[0-9]{{6,}}\.tar{re.escape(end)}")
        return sorted(path for path in self._directory.iterdir() if form.fullmatch(path.name))

    def _remove_temporary(self) -> None:
        for path in self._shards(TEMPORARY):
            path.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines, at least one; a torn one at the end, of a run that was killed, is cut off."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
            lines[0]["settings"]
        except (ValueError, LookupError, TypeError) as exc:
            raise ConfigError(f"{self._path} is damaged: {exc}; start anew with --force") from exc
        self._file.truncate(len(whole))
        return lines

    def _compare(self, first: Mapping[str, Any]) -> None:
        begun = first["settings"]
        for key, value in self._settings.items():
            if begun.get(key) != value:
                raise ConfigError(
                    f"{self._directory}: {self._name!r} was begun with {key} {begun.get(key)!r}, now it is {value!r}; "
                    f"--force removes its shards and starts anew; or choose another --out or --name"
                )

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
