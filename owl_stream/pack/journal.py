"""What a run has finished, so that the next one goes on: one line per shard, written when the shard is complete."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from owl_stream.errors import ConfigError
from owl_stream.pack.tar import TEMPORARY, PackedShard


class Journal:
    """The journal of the shards called `name` in `directory`, locked while it is open. A context manager.

    It trusts itself only as far as it can see: a shard counts as finished if its file is there with the bytes noted.

    Raises:
        ConfigError: the directory cannot be written, another run is at work, it was begun with other settings, or
            there are shards of that name which no journal knows.
    """

    def __init__(self, directory: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._directory, self._name, self._settings = directory, name, dict(settings)
        self._path = directory / f".{name}.pack.jsonl"
        self._done: dict[str, tuple[str, PackedShard]] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
        except OSError as exc:
            raise ConfigError(f"{directory}: cannot write there: {exc.strerror}; choose another --out") from exc
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def finished(self, shard: str, assignment: str) -> PackedShard | None:
        """The shard, if an earlier run has written just this assignment and the file is still there."""
        known, packed = self._done.get(shard, ("", None))
        path = self._directory / shard
        if packed is None or known != assignment or not path.is_file() or path.stat().st_size != packed.nbytes:
            return None
        return packed

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
        self._file.close()

    def _open(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigError(f"{self._directory}: another run packs {self._name!r} there; wait for it") from exc
        lines = self._read()
        for leftover in self._directory.glob(f"{self._name}-*.tar{TEMPORARY}"):
            leftover.unlink(missing_ok=True)
        if lines:
            self._compare(lines[0])
        else:
            if stray := next(self._directory.glob(f"{self._name}-*.tar"), None):
                raise ConfigError(
                    f"{stray} is there already and is not of this command; choose another --out or --name"
                )
            self._write({"settings": self._settings})
        for line in lines[1:]:
            shard = PackedShard(line["name"], line["samples"], line["nbytes"], line["digest"])
            self._done[shard.name] = (line["assignment"], shard)

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines; a torn one at the end, of a run that was killed, is cut off."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as exc:
            raise ConfigError(f"{self._path} is damaged: {exc}; delete it and the shards, and pack again") from exc

    def _compare(self, first: Mapping[str, Any]) -> None:
        begun = first["settings"]
        for key, value in self._settings.items():
            if begun.get(key) != value:
                raise ConfigError(
                    f"{self._directory}: {self._name!r} was begun with {key} {begun.get(key)!r}, now it is {value!r}; "
                    f"choose another --out or --name, or delete {self._path} and the shards"
                )

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
