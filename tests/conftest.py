"""What every test may ask for. Tests that need `../shared` skip cleanly on a machine that has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.layouts import LAYOUTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """Every test of a dataset that is made with it runs once for each layout."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The golden vectors, copied into the project."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real samples that lies beside some checkouts: `../shared/data`."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return path
