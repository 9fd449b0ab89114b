"""The command line: a newcomer's mistakes are one clear line and exit code 2."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import Here, one_line, owl_stream, run
from tests.support.datasets import small_dataset, write_config
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The directory of a small dataset."""
    small_dataset(tmp_path, samples=8, shards=1)
    return tmp_path


def test_index_says_what_it_found(here: Here, data: Path) -> None:
    """`owl-stream index` prints samples, quarantined and the fingerprint; the second time it says the same."""
    first = owl_stream("index", "--config", str(data / "owl-stream.yaml"))
    assert first.returncode == 0, first.stderr
    assert "8 samples, 0 quarantined" in first.stdout
    again = here("index", "--config", str(data / "owl-stream.yaml"))
    assert again.stdout == first.stdout


def test_flags_alone_are_enough(data: Path, tmp_path: Path) -> None:
    """Shards and a tokenizer on the command line need no file, and the index may lie elsewhere."""
    index_dir = tmp_path / "elsewhere"
    done = owl_stream(
        *("index", "--shards", str(data / "train-00000.tar"), "--tokenizer", str(data / "tokenizer.json")),
        *("--index-dir", str(index_dir)),
    )
    assert done.returncode == 0, done.stderr
    assert any(index_dir.iterdir())
    assert not (data / ".owl-index").exists()


def test_nothing_to_serve(tmp_path: Path) -> None:
    """Without a file or flags the remedy is named."""
    assert "--config FILE" in one_line(owl_stream("serve", cwd=tmp_path))


def test_no_such_shard(data: Path) -> None:
    """A pattern that matches nothing is named."""
    line = one_line(
        owl_stream("serve", "--port", "0", "-s", str(data / "no-*.tar"), "-t", str(data / "tokenizer.json"))
    )
    assert "no-*.tar" in line


def test_a_misspelt_option_is_one_line_with_the_nearest_one(here: Here) -> None:
    """The command line's own errors look like ours: the option, what it may have meant, where to read on."""
    line = one_line(here("serve", "--prot", "1"))
    assert "--prot" in line
    assert "--port" in line
    assert "owl-stream serve --help" in line
    assert "frobnicate" in one_line(here("frobnicate"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("plan", "--world-size", "3"), "valid world_size"),
        (("plan", "--step", "99"), "expected 0 to"),
        (("plan", "--dataset", "val"), "there is: train"),
        (("inspect", "--rank", "4"), "valid ranks: 0"),
        (("inspect", "http://127.0.0.1:1", "--config"), "leave out"),
        (("bench", "127.0.0.1"), "http://host:port"),
        (("bench", "http://127.0.0.1:1"), "is the server running there?"),
        (("check", "--dataset", "val"), "there is: train"),
        (
            ("serve", "--shards", "train-00000.tar"),
            "--tokenizer is missing: .*mPLUG/mPLUG-Owl3-7B-240728 for owl3-240728",
        ),
        (("index", "--tokenizer", "tokenizer.json"), "--shards is missing"),
        (
            ("index", "--shards", "train-00000.tar", "-t", "owl-stream.yaml"),
            r"tokenizer\.json\), which it is not .*take",
        ),
        (("serve", "owl-stream.yaml"), "a configuration is given with --config"),
        (("fit-cost", "nothing.jsonl"), "StepTimes wrote, got: No such file or directory$"),
        (("pack", "nothing.json", "--out", "out"), "nothing.json: no such file"),
        (("pack", ".", "--out", "out", "--shard-size", "many"), "512MiB"),
        (("pack", ".", "--out", "out", "--format", "coco"), "sharegpt"),
        (("pack", ".", "--out", "out", "--format", "llava"), "got a directory"),
        (("pack", ".", "--out", "out", "--name", "../x"), "letters"),
    ],
)
def test_every_command_names_what_was_wrong_and_what_is_right(
    here: Here, data: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    """Ranks, sizes, names, addresses, formats: one line, exit code 2, nothing on stdout, nothing written."""
    monkeypatch.chdir(data)
    more = ["owl-stream.yaml"] if arguments[-1] == "--config" else []
    assert re.search(expected, one_line(here(*arguments, *more)))
    assert not (data / "out").exists()


def test_wrong_layout_name(here: Here) -> None:
    """The valid layouts are named."""
    line = one_line(here("serve", "-s", "x.tar", "-t", "t.json", "--layout", "owl4"))
    assert "owl3-240728" in line
    assert "owl4" in line


def test_tokenizer_not_found(data: Path) -> None:
    """The tokenizer is named, and what it may be."""
    line = one_line(owl_stream("serve", "--port", "0", "-s", str(data / "train-00000.tar"), "-t", "missing.json"))
    assert "tokenizer" in line
    assert "missing.json" in line


def test_port_in_use(data: Path) -> None:
    """The address and the remedy are named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = one_line(owl_stream("serve", "--config", str(data / "owl-stream.yaml"), "--port", port))
    assert port in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("global_batchsize", 4, "did you mean `global_batch_size`?"),
        ("global_batch_size", 0, "greater than or equal to 1"),
        ("modality", "sometimes", "'pure' or 'off'"),
        ("seed", "x", "'x'"),
    ],
)
def test_configuration_errors_name_file_key_value_and_expectation(
    here: Here, data: Path, key: str, value: object, expected: str
) -> None:
    """A misspelt key gets the nearest valid one, a wrong value what was expected."""
    path = write_config(data, **{key: value})
    line = one_line(here("serve", "--config", path))
    assert str(path) in line
    assert f"datasets.train.{key}" in line
    assert expected in line


def test_world_size_that_does_not_divide(data: Path) -> None:
    """A trainer that asks for an impossible world size is told the possible ones."""
    code = f"""
import sys
from owl_client import OwlStreamDataset
from owl_stream.errors import UsageError
from tests.support.server import ServerProcess
from pathlib import Path
with ServerProcess(Path({str(data / "owl-stream.yaml")!r})) as server:
    try:
        next(iter(OwlStreamDataset(server.url, rank=0, world_size=3)))
    except UsageError as exc:
        print(exc)
"""
    done = run("-c", code)
    assert "1, 2, 4" in done.stdout, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1


def test_server_not_reachable() -> None:
    """A trainer whose server is not there is told which URLs were tried, once it has tried long enough."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        code = f"""
from owl_client import OwlStreamDataset
from owl_stream.errors import OwlStreamError
try:
    next(iter(OwlStreamDataset({url!r}, give_up_after_s=0.5)))
except OwlStreamError as exc:
    print(type(exc).__name__, exc)
"""
        done = run("-c", code)
    assert url in done.stdout, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1


def test_a_server_stops_cleanly_while_it_indexes(tmp_path: Path) -> None:
    """SIGTERM during indexing ends the process with exit code 0, and without a word of complaint."""
    path = small_dataset(tmp_path, samples=400, shards=8)
    command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        assert "listens" in server.stdout.readline()
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
