"""What a newcomer copies from the README works, and no page sends them to what does not exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from owl_stream.config import load_config
from owl_stream.demo import build_demo_dataset
from owl_stream.layouts import LAYOUT_NAMES, get_layout
from tests.support.server import ROOT

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `demo` lies, as `make demo` leaves it."""
    pytest.importorskip("skimage", reason="no photographs: pip install -e '.[dev]'")
    directory = tmp_path_factory.mktemp("checkout")
    build_demo_dataset(directory / "demo")
    return directory


def commands() -> Iterator[str]:
    """The lines of the README's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        yield from block.splitlines()


def test_the_servers_that_the_readme_starts_get_ready(checkout: Path) -> None:
    """Each `owl-stream serve` of it, on another port, beside the demo's data."""
    lines = [line for line in commands() if line.startswith("owl-stream serve")]
    assert len(lines) == 2
    for line in lines:
        shell = line.replace("owl-stream", f"exec {sys.executable} -m owl_stream.cli", 1) + " --port 0"
        with subprocess.Popen(["bash", "-c", shell], stdout=subprocess.PIPE, text=True, cwd=checkout) as server:
            try:
                assert server.stdout is not None
                assert "listens" in server.stdout.readline()
                assert server.stdout.readline().startswith("ready:")
            finally:
                server.terminate()


def test_every_target_of_make_that_is_named_exists() -> None:
    """In the README and in the documents."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        assert set(re.findall(r"(?:^|`)make (\w+)", page.read_text(), re.MULTILINE)) <= targets, page.name


def test_the_configuration_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    """All its keys and values are taken."""
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "owl-stream.yaml").write_text(block)
    config = load_config(tmp_path / "owl-stream.yaml", {})
    assert set(config.datasets) == set(yaml.safe_load(block)["datasets"]) == {"train"}


def test_the_readme_says_which_model_each_layout_is_for() -> None:
    """The hub ids that the error message names, too."""
    for layout in LAYOUT_NAMES:
        assert re.search(rf"`{layout}`.*`{get_layout(layout).released}`", README), layout


def pages() -> list[Path]:
    """All documents for users."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_nothing_is_installed_or_cloned_from_where_it_is_not() -> None:
    """There is no release and no public address yet: pip finds no `owl-stream` unless a wheel is named."""
    for page in [*pages(), ROOT / "pyproject.toml"]:
        text = page.read_text()
        assert not re.search(r"github\.com/owl-stream", text), page.name
        assert not re.search(r"pip install '?owl-stream", text), page.name
