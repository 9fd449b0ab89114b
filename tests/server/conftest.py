"""One running server for tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.datasets import small_dataset
from tests.support.server import ServerProcess


@pytest.fixture(scope="session")
def server(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The small dataset, served with short limits so that their tests are quick."""
    limits = {"max_streams": 3, "request_timeout_s": 1.0, "heartbeat_s": 0.2}
    with ServerProcess(small_dataset(tmp_path_factory.mktemp("server"), layout=layout, server=limits)) as server:
        yield server
        assert server.stop() == 0
