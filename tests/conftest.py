"""What every test may ask for. Tests that need `../shared` skip cleanly on a machine that has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.layouts import OWL

ROOT = Path(__file__).resolve().parent.parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test whose dataset has a layout has the first one, unless a mark of `tests.support.layouts` says otherwise."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "layout" in metafunc.fixturenames and not any("layout" in _names(mark) for mark in marks):
        metafunc.parametrize("layout", [OWL], indirect=True)


def _names(mark: pytest.Mark) -> list[str]:
    """What a `parametrize` gives values to."""
    names = mark.args[0]
    return names.replace(",", " ").split() if isinstance(names, str) else list(names)


@pytest.fixture(scope="session")
def layout(request: pytest.FixtureRequest) -> str:
    """The layout of a test's dataset. Tests that hold a promise for all are marked `every_layout`."""
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
