"""What other machines install: one wheel, built from the checkout, that lacks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.datasets import small_dataset
from tests.support.http import get
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, without its dependencies: those are the environment's."""
    pytest.importorskip("hatchling", reason="no hatchling: pip install -e '.[dev]'")
    wheels, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("installed")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    pip("install", "--target", str(target), str(wheel))
    return target


def pip(command: str, *arguments: str) -> None:
    """Run pip without an index."""
    whole = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr


def owl_stream(installed: Path, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command that was installed, away from the checkout."""
    command = [sys.executable, str(installed / "bin" / "owl-stream"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env)


def files(directory: Path) -> set[str]:
    """Everything below a package's directory that is not made by running it."""
    paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {str(path) for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_both_packages_and_all_their_files(installed: Path) -> None:
    """Pages, styles, type markers, and the example model that the demo trains."""
    assert files(installed / "owl_client") == files(ROOT / "client" / "owl_client")
    assert files(installed / "owl_stream") == files(ROOT / "owl_stream") | {"demo/_examples/tiny_owl3.py"}
    example = installed / "owl_stream" / "demo" / "_examples" / "tiny_owl3.py"
    assert example.read_bytes() == (ROOT / "examples" / "tiny_owl3.py").read_bytes()


def test_the_installed_command_serves_its_pages(installed: Path, tmp_path: Path) -> None:
    """`owl-stream version` and `serve`, from the wheel and from nowhere else."""
    with owl_stream(installed, "version", cwd=tmp_path) as version:
        out, _ = version.communicate(timeout=PATIENCE_S)
    assert out.strip() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    config = small_dataset(tmp_path, samples=8, shards=1, server={"workers": 0})
    with owl_stream(installed, "serve", "--json", "--port", "0", "--config", str(config), cwd=tmp_path) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            assert json.loads(server.stdout.readline())["event"] == "ready"
            assert "<title>" in get(url + "/").body.decode()
        finally:
            server.terminate()


def test_a_machine_with_the_client_alone_is_told_how_to_get_the_commands(tmp_path: Path) -> None:
    """`owl-stream` is installed there too, and must not end in a traceback."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from owl_stream.cli import main; main(['version'])"
    command = [sys.executable, "-S", "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("owl-stream: the commands need more than is installed (")
    assert "pip install 'owl-stream[server]'" in done.stderr
