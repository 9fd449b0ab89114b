"""Opening the datasets of a server, one after the other, while it answers already."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from owl_stream.assemble import Dataset
from owl_stream.errors import DataError, OwlStreamError, TemporaryError, UsageError
from owl_stream.server.notes import note_words
from owl_stream.server.state import ServerState

log = logging.getLogger("owl_stream.server")


async def open_datasets(
    state: ServerState, on_failure: Callable[[OwlStreamError], None], on_ready: Callable[[Sequence[str]], None]
) -> None:
    """Open every dataset; each is served as soon as it can be, and one that fails or stalls leaves the others alone.

    They are indexed one after the other; one that makes no progress for `job_timeout_s` lets the next one begin. Then
    `on_ready` hears the names of those that are served, or `on_failure` why there are none.
    """
    served: list[str] = []
    opening: list[asyncio.Task[None]] = []
    try:
        for name in state.catalogue.entries:
            opening.append(asyncio.create_task(_try(state, name, served)))
            await _ended_or_stalled(state, name, opening[-1])
        while not served and (left := [task for task in opening if not task.done()]):
            await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        if state.catalogue.stopped:
            return
        if served:
            on_ready(tuple(served))
        else:
            on_failure(_all(state.catalogue.failures))
        await asyncio.gather(*opening)
    finally:
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)


async def _ended_or_stalled(state: ServerState, name: str, opening: asyncio.Task[None]) -> None:
    """Wait until a dataset is opened or not, or its opening makes no progress."""
    longest_s, entry = state.config.server.job_timeout_s, state.catalogue.entries[name]
    while not opening.done() and (left_s := longest_s - entry.silent_s) > 0:
        await asyncio.wait({opening}, timeout=left_s)


async def _try(state: ServerState, name: str, served: list[str]) -> None:
    """Open a dataset and note that it is served, or why it is not."""
    catalogue = state.catalogue
    try:
        await _open(state, name)
        served.append(name)
    except Exception as exc:
        if catalogue.stopped:
            return
        error = catalogue.fail(name, exc)
        if len(catalogue.entries) > 1 or type(error) is OwlStreamError:
            unforeseen = exc if type(error) is OwlStreamError else None
            log.error("dataset %s is not served: %s", name, error, exc_info=unforeseen)


async def _open(state: ServerState, name: str) -> None:
    dataset = await state.opening.run(f"opening {name}", state.catalogue.open, name, unwanted=Dataset.close)
    try:
        # Workers start when there is work for them: an index that cannot be built needs none.
        await state.engine.prepare(dataset)
    except BaseException:
        dataset.close()
        raise
    state.catalogue.admit(dataset)
    _tell_notes(dataset)


def _tell_notes(dataset: Dataset) -> None:
    """One line, where good samples hold something that is not what it seems."""
    if dataset.notes:
        log.warning("%s: %s", dataset.name, "; ".join(note_words(dataset.notes)))


def _all(failures: dict[str, OwlStreamError]) -> OwlStreamError:
    """One error that says of every dataset why it is not served. It may pass if one of them may."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    text = "no dataset can be served: " + "; ".join(f"{name}: {error}" for name, error in failures.items())
    if any(error.retryable for error in failures.values()):
        return TemporaryError(text)
    ours = not all(isinstance(error, UsageError | DataError) for error in failures.values())
    return OwlStreamError(text) if ours else UsageError(text)
