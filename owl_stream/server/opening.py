"""Opening the datasets of a server, one after the other, while it answers already."""

from __future__ import annotations

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
    """Open every dataset; each is served as soon as it can be, and one that fails leaves the others alone.

    Then `on_ready` hears the names of those that are served, or `on_failure` why there are none.
    """
    catalogue, served = state.catalogue, list[str]()
    for name in catalogue.entries:
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
    if served:
        on_ready(served)
    else:
        on_failure(_all(catalogue.failures))


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
