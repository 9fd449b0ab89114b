"""`plan`, `inspect` and `bench`: what a trainer would get, looked at from the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from owl_stream.assemble import open_dataset
from owl_stream.cli.halfblocks import side_by_side
from owl_stream.cli.meter import Measured
from owl_stream.config import load_config
from tests.cli.command import Here
from tests.support.damage import member_offsets, overwrite
from tests.support.datasets import small_dataset, write_config
from tests.support.server import ServerProcess


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A dataset whose first picture has a hole, and a server of it."""
    config = small_dataset(
        tmp_path_factory.mktemp("served"), samples=8, shards=1, shuffle="none", modality="off", bucket_window=1
    )
    shard = config.with_name("train-00000.tar")
    _, offset, size = member_offsets(shard)["000000.jpg"]
    data = shard.read_bytes()[offset : offset + size]
    overwrite(shard, offset + data.rindex(b"\xff\xda") + 20, b"\xff\xd9")
    with ServerProcess(config) as server:
        yield config, server.url


def test_plan_lists_each_sample_once_with_its_cost(here: Here, served: tuple[Path, str]) -> None:
    """Over a whole epoch: every sample, real and padded tokens, and how evenly two ranks are loaded."""
    made = here.json("plan", "--config", served[0], "--count", "0", "--world-size", "2", "--micro-batch-size", "1")
    rows = [row for step in made["steps"] for row in step["rows"]]
    assert sorted(row["key"] for row in rows) == [f"{at:06d}" for at in range(8)]
    assert made["padding_efficiency"] == 1.0
    assert all(len(step["deal"]["rank_costs"]) == 2 and step["slowest_to_mean"] >= 1 for step in made["steps"])
    wide = here.json("plan", "--config", served[0], "--count", "1")
    (step,) = wide["steps"]
    longest = max(row["text_tokens"] for row in step["rows"])
    assert step["padded_tokens"] == 4 * longest
    assert step["tokens"] == sum(row["text_tokens"] for row in step["rows"])
    assert wide["padding_efficiency"] == pytest.approx(step["tokens"] / step["padded_tokens"], abs=1e-4)
    told = here("plan", "--config", served[0], "--rows").stdout
    assert all(row["key"] in told for row in rows)
    assert "slowest/mean rank 1.000" in told


def test_inspect_shows_what_the_server_sends(here: Here, served: tuple[Path, str]) -> None:
    """From the configuration and from the running server: the same rows; a masked one with its reason."""
    config, url = served
    inline = here.json("inspect", "--config", config)
    assert here.json("inspect", url, "--tokenizer", config.with_name("tokenizer.json")) == inline
    masked = next(row for row in inline["rows"] if row["key"] == "000000")
    assert masked["status"] == "masked"
    assert "000000.jpg @ " in masked["reason"]
    assert masked["supervised_tokens"] == 0
    ids = here.json("inspect", url)["rows"][0]["runs"][0]["text"]
    assert re.fullmatch(r"(\d+ )+", ids)


@pytest.mark.parametrize("layout", ["owl3-240728", "owl3-241101"])
def test_what_each_token_sees_is_what_the_layout_says(here: Here, tmp_path: Path, layout: str) -> None:
    """Per row the runs grow by one crop at a time, to all of them; text-only rows see none; texts are whole.

    In 241101 the first piece of an `<|image|>` sees its crop already, in 240728 only the next one does.
    """
    small_dataset(tmp_path, samples=8, shards=1)
    config = write_config(tmp_path, layout=layout, modality="off", cut="single")
    dataset = open_dataset("train", load_config(config).datasets["train"], base=tmp_path, index_dir=None, processes=0)
    steps = [here.json("inspect", "--config", config, "--step", str(step)) for step in range(dataset.steps_per_epoch)]
    dataset.close()
    rows = [row for made in steps for row in made["rows"]]
    assert len(rows) == 8
    for row in rows:
        sees, crops = [run["sees"] for run in row["runs"]], len(row["units"])
        assert sorted(set(sees)) == list(range(crops + 1))
        assert sees == sorted(sees)
        text = "".join(run["text"] for run in row["runs"])
        assert text.startswith("<|im_start|>system\n<|im_end|>")
        assert text.count("<|image|>") == crops
        blind = "".join(run["text"] for run in row["runs"] if not run["sees"])
        if crops:
            assert (len(blind) == text.index("<|image|>")) == (layout == "owl3-241101")
        learned = "".join(run["text"] for run in row["runs"] if run["supervised"])
        assert learned.endswith("<|im_end|><|endoftext|>")
        assert sum(run["tokens"] for run in row["runs"] if run["supervised"]) == row["supervised_tokens"]


def test_inspect_colours_underlines_and_draws(
    here: Here, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal: learned text underlined, padding dim, pictures as half blocks in their colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLUMNS", "120")
    shown = here("inspect", "--config", served[0], "--pictures").stdout
    assert re.search(r"\x1b\[4;\d+m.*A small owl|\x1b\[4", shown)
    assert re.search(r"\x1b\[2m\[\d+ x padding\]", shown)
    assert "\x1b[38;2;" in shown
    assert "▀" in shown


def test_half_blocks_have_the_colours_of_the_picture() -> None:
    """Red above, blue below: the upper half of each character is red, its background blue, and no wider than asked."""
    picture = np.zeros((28, 28, 3), np.uint8)
    picture[:14, :, 0], picture[14:, :, 2] = 255, 255
    (line,) = side_by_side([picture, picture], 2, 80)
    assert line.plain == "▀▀ ▀▀"
    console = Console(color_system="truecolor", force_terminal=True, width=80)
    with console.capture() as capture:
        console.print(line)
    assert "38;2;255;0;0;48;2;0;0;255" in capture.get()


def test_bench_measures_and_names_the_slower_side(here: Here, served: tuple[Path, str]) -> None:
    """A reader that does nothing with what it gets is never the slower side of a server that must decode."""
    made = here.json("bench", served[1], "--seconds", "6.5", "--micro-batch-size", "2", "--world-size", "2")
    assert made["batches"] > 2
    assert made["mb_per_s"] > 0
    assert made["samples_per_s"] > 0
    assert made["slower"] == "server"
    assert "-bound: " in made["advice"]
    assert "add cores" in made["advice"]


def test_bench_says_when_it_cannot_know(here: Here) -> None:
    """No word of the server is no verdict; a waiting server is."""
    quiet = Measured(1, 1.0, 1, 1, 1, 1, {})
    assert quiet.slower == "unknown"
    assert "at least 6 seconds" in quiet.advice()
    waiting = Measured(1, 1.0, 1, 1, 1, 1, {"assembly_wait_s": 0.1, "reader_wait_s": 3.0})
    assert waiting.slower == "reader"
    assert "3.0 s for this machine or the network" in waiting.advice()


def test_bench_counts_the_cores_that_a_trainers_need_asks_for() -> None:
    """480 samples/s of two cores and a need of 900: two more, or the cache, as decoding is what takes the time."""
    told = {"assembly_wait_s": 9.0, "reader_wait_s": 0.1, "workers": 2.0, "decode_s": 12.0, "resize_s": 4.0}
    measured = Measured(1, 10.0, 600, 4800, 4800, 1 << 30, told)
    expected = (
        "decode-bound: 2 workers feed 480 samples/s, 75% of the time goes into decode; you need 900: "
        "add 2 cores, or let it keep pixels (`server.cache`)."
    )
    assert measured.advice(900) == expected
    assert "that is enough for the 400 you need" in measured.advice(400)


@pytest.mark.parametrize("command", ["bench", "inspect"])
def test_a_server_of_something_else_is_one_line(here: Here, served: tuple[Path, str], command: str) -> None:
    """Not our routes, not our dataset: it says so, with exit code 2."""
    wrong = here(command, served[1] + "/elsewhere")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "is it an owl-stream server?" in wrong.stderr
    unknown = here(command, served[1], "--dataset", "val")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "choose one with --dataset: train" in unknown.stderr
