"""Every client test also checks that it leaves no thread and no socket behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from owl_client.connection import TOKEN_VARIABLE


def client_threads() -> list[str]:
    """Threads of the client that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name == "owl-client"]


@pytest.fixture(autouse=True)
def no_thread_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the machine's environment gets in, and no thread of the client is left."""
    for name in ("RANK", "WORLD_SIZE", TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    yield
    if client_threads():
        gc.collect()  # an exception that a test still holds keeps the iterator that raised it
    assert client_threads() == []


@pytest.fixture(autouse=True, scope="module")
def no_socket_left_behind() -> Iterator[None]:
    """Collecting garbage warns of no open socket; warnings are errors."""
    yield
    gc.collect()
