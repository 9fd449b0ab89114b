"""Every command on data, files, arguments and servers that hold whatever steers a terminal: none of it gets there."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from owl_stream.wire import ErrorInfo, pack_frame
from tests.cli.command import one_line, owl_stream, run
from tests.support.datasets import write_config
from tests.support.hostile import FRIENDLY, HOSTILE, NAMES, SURROGATE, assert_inert
from tests.support.images import damaged_jpeg, photo
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer

KEY = HOSTILE
TEXT = chat((f"<|image|>What {HOSTILE}", f"A {FRIENDLY} {HOSTILE} owl."), **{f"{HOSTILE} field": 1})
PICTURE = picture(40, 30)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with hostile names: keys, texts, fields, roles, members and names of images are hostile too."""
    directory = tmp_path_factory.mktemp("hostile")
    hole = damaged_jpeg(photo("rocket.jpg"))
    roles = json.dumps({"messages": [{"role": HOSTILE, "content": "x"}]}).encode()
    named = json.dumps({"images": [HOSTILE], "messages": [{"role": "user", "content": "<image>"}]}).encode()
    write_shard(
        directory / f"tr{NAMES[0]}.tar",
        [
            (f"good{KEY}", {"json": TEXT, "jpg": PICTURE}),
            (f"bad{KEY}", {"json": b"{" + HOSTILE.encode(), "jpg": PICTURE}),
            (f"bytes{SURROGATE}", {"json": TEXT, "jpg": PICTURE}),
            ("role", {"json": roles}),
        ],
    )
    write_shard(
        directory / f"tr{NAMES[1]}.tar",
        [
            ("field", {"json": json.dumps({HOSTILE: HOSTILE}).encode()}),
            ("named", {"json": named, "jpg": PICTURE}),
            ("member", {"json": TEXT, f"jp{KEY}": b"x"}),
            (f"hole{KEY}", {"json": TEXT, "jpg": hole}),
        ],
    )
    small_tokenizer(directory / "tokenizer.json")
    return write_config(directory, shards=["tr*.tar"], cut="off")


def held(done: subprocess.CompletedProcess[str], code: int, *, colours: bool = False) -> str:
    """What a command printed, held to the promise."""
    assert done.returncode == code, done.stderr
    assert_inert(done.stderr)
    return assert_inert(done.stdout, colours=colours)


@pytest.mark.parametrize("command", [("index",), ("check",), ("plan", "--rows"), ("inspect", "--pictures")])
def test_fault_137_hostile_data_are_shown_and_do_nothing(config: Path, command: tuple[str, ...]) -> None:
    """Keys, shards, members, texts, reasons and notes are shown as codes, each on its line; friendly text as it is."""
    code = 1 if command[0] == "check" else 0
    printed = held(owl_stream(*command, "--config", str(config)), code)
    assert r"\x1b]0;owned\x07" in printed
    if command[0] == "inspect":
        assert "日本" in printed
        assert "👩🏽\u200d🚀" in printed
    held(owl_stream(*command, "--config", str(config), "--json"), code)


def test_fault_137_colours_are_ours_alone(config: Path) -> None:
    """With colours on, styles and pictures come through, and still nothing of the data's."""
    environment = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "COLUMNS": "100"}
    shown = run("-m", "owl_stream.cli", "inspect", "--config", str(config), "--pictures", **environment)
    printed = held(shown, 0, colours=True)
    assert "\x1b[38;2;" in printed
    assert "▀" in printed
    held(run("-m", "owl_stream.cli", "--help", **environment), 0, colours=True)


def test_fault_137_a_terminal_gets_bars_and_no_more(config: Path) -> None:
    """On a real terminal: help has its colours, and the data set's name in a bar is inert."""
    code = (
        "from owl_stream.cli import terminal\nfrom tests.support.hostile import HOSTILE\nterminal.SHOW_AFTER_S = 0\n"
        "with terminal.guarded(), terminal.Bar(f'indexing {HOSTILE}') as bar:\n"
        "    bar.update(1, 2, note=HOSTILE)\n    bar.update(2, 2, note=HOSTILE, what=HOSTILE)\n"
        "    terminal.say(HOSTILE)\n"
    )
    printed = in_terminal("-c", code)
    for ours in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\r"):
        printed = printed.replace(ours, "")
    assert r"\x1b]0;owned\x07" in assert_inert(printed, colours=True)
    assert "\x1b[" in in_terminal("-m", "owl_stream.cli", "--help")


def in_terminal(*arguments: str) -> str:
    """What Python writes to a terminal that is all of its streams."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "2000"}
    with subprocess.Popen([sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT):
        os.close(theirs)
        written = b""
        try:
            while select.select([ours], [], [], PATIENCE_S)[0] and (piece := os.read(ours, 1 << 16)):
                written += piece
        except OSError:  # the terminal's other end has been closed
            pass
        os.close(ours)
    return written.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        ("serve", f"--{HOSTILE}", "1"),
        ("serve", HOSTILE),
        ("serve", "--config", HOSTILE),
        ("serve", "--config", SURROGATE),
        ("serve", "--shards", HOSTILE, "--tokenizer", HOSTILE),
        ("serve", "-s", HOSTILE, "-t", HOSTILE, "--layout", HOSTILE),
        ("serve", "-s", HOSTILE, "-t", SURROGATE),
        ("serve", "--log-level", HOSTILE, "-s", "x", "-t", "y"),
        ("serve", "--port", HOSTILE),
        ("bench", f"http://{HOSTILE}"),
        ("bench", f"http://127.0.0.1:1/{HOSTILE}{SURROGATE}"),
        ("bench", HOSTILE),
        ("inspect", "http://127.0.0.1:1", "--ca", HOSTILE),
        ("fit-cost", HOSTILE),
        ("pack", HOSTILE, "--out", "out"),
        ("pack", ".", "--out", "out", "--format", HOSTILE),
        ("pack", ".", "--out", "out", "--name", HOSTILE),
        ("pack", ".", "--out", "out", "--shard-size", HOSTILE),
        ("pack", ".", "--out", "out", "--on-bad", HOSTILE),
    ],
    ids=lambda arguments: arguments[0] if len(arguments[0]) < 9 else "command",
)
def test_fault_137_hostile_arguments_are_one_inert_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """An argument comes from a file's name as often as from a hand."""
    done = owl_stream(*arguments, cwd=tmp_path)
    one_line(done)
    held(done, 2)


def test_fault_137_a_folder_of_hostile_names_is_packed(tmp_path: Path) -> None:
    """`pack` of files and records that are called so: what is left out is listed, line by line."""
    folder = tmp_path / f"in{NAMES[1]}"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / f"{name}.jpg").write_bytes(PICTURE if number else b"no picture")
        (folder / f"{name}.txt").write_text("A caption.")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(PICTURE)
    done = owl_stream("pack", str(folder), "--out", str(tmp_path / f"out{NAMES[0]}"))
    assert "left out: " in done.stderr
    held(done, 0)
    records = tmp_path / f"{NAMES[0]}.json"
    conversation = [{"from": "human", "value": "<image>"}, {"from": HOSTILE, "value": HOSTILE}]
    bad = {"id": HOSTILE, "image": HOSTILE, "conversations": conversation, HOSTILE: 1}
    good = {"conversations": [{"from": "human", "value": HOSTILE}, {"from": "gpt", "value": "x"}], f"{HOSTILE} x": 1}
    records.write_text(json.dumps([bad, good]))
    packed = owl_stream("pack", str(records), "--out", str(tmp_path / "out"))
    assert "left out: " in packed.stderr
    held(packed, 0)
    held(owl_stream("pack", str(records), "--out", str(tmp_path / "other"), "--on-bad", "fail"), 2)
    times = tmp_path / f"{NAMES[1]}.jsonl"
    times.write_text(HOSTILE)
    held(owl_stream("fit-cost", str(times)), 2)
    times.write_text("[" * 200_000)
    held(owl_stream("fit-cost", str(times)), 2)


@pytest.mark.parametrize("where", ["key", "value", "section", "dataset", "variable"])
def test_fault_137_a_hostile_configuration_is_one_inert_line(tmp_path: Path, where: str) -> None:
    """Its keys and values, and those of the environment."""
    quoted = json.dumps(HOSTILE)
    text = {
        "key": f"server: {{{quoted}: 1}}",
        "value": f"server: {{port: {quoted}}}",
        "section": f"{quoted}: 1",
        "dataset": f"datasets: {{{quoted}: {{shards: [{quoted}], tokenizer: {quoted}}}}}",
        "variable": "",
    }[where]
    path = tmp_path / "owl-stream.yaml"
    path.write_text(text if where == "dataset" else f"{text}\ndatasets: {{train: {{shards: [a], tokenizer: t}}}}")
    environment = {"OWL_SERVER__" + HOSTILE.replace("=", ""): HOSTILE} if where == "variable" else {}
    done = run("-m", "owl_stream.cli", "index", "--config", str(path), **environment)
    held(done, 2)
    one_line(done)


class Liar(BaseHTTPRequestHandler):
    """A server whose every word is hostile. `answer`: what it says to whatever is asked."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"")

    def do_GET(self) -> None:
        """Say it; a list of data sets comes first where it is asked for."""
        status, body = self.answer
        if self.path == "/v1/datasets" and body.startswith(b"OWL"):
            status, body = 200, json.dumps({"datasets": {"train": {}}}).encode()
        self.wfile.write(
            f"HTTP/1.1 {status} {HOSTILE}".replace("\n", "").replace("\r", "").encode("latin-1", "replace")
        )
        self.wfile.write(b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Be silent."""


@pytest.fixture
def liar() -> Iterator[str]:
    """Where it listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def refusal(status: int, code: str, *, retryable: bool) -> tuple[int, bytes]:
    """An error as our servers answer it."""
    return status, json.dumps({"error": {"code": code, "message": HOSTILE, "retryable": retryable}}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        refusal(422, "bad_request", retryable=False),
        refusal(401, "unauthorized", retryable=False),
        refusal(503, HOSTILE, retryable=True),
        refusal(500, "internal", retryable=False),
        (404, HOSTILE.encode()),
        (500, b"[]"),
        (200, HOSTILE.encode()),
        (200, json.dumps({"datasets": {HOSTILE: {}, FRIENDLY: {}}}).encode()),
        (200, json.dumps({"datasets": 5}).encode()),
        (200, json.dumps([HOSTILE]).encode()),
        (200, b"[" * 100_000),
        (200, pack_frame(ErrorInfo("data_changed", HOSTILE, False))),
        (200, pack_frame(ErrorInfo(HOSTILE, HOSTILE, True))),
    ],
    ids=lambda answer: f"{answer[0]}-{answer[1][:12]!r}",
)
@pytest.mark.parametrize("command", ["bench", "inspect"])
def test_fault_137_a_hostile_server_is_one_inert_line(
    liar: str, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes], command: str
) -> None:
    """Whatever it answers, with its reason phrase, its names and its messages."""
    monkeypatch.setattr(Liar, "answer", answer)
    done = owl_stream(command, liar)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("owl-stream: ")
    assert "please report it" not in done.stderr
    assert_inert(done.stdout + done.stderr)


def test_fault_137_a_running_server_shows_its_rows_inert(config: Path) -> None:
    """`inspect URL` of the frames themselves."""
    with ServerProcess(config) as server:
        held(owl_stream("inspect", server.url, "--tokenizer", str(config.with_name("tokenizer.json"))), 0)
        assert_inert(server.log.read_text())


def test_fault_137_an_unforeseen_error_and_a_warning_are_inert() -> None:
    """What a library raises, warns or logs with words of the data, and the traceback that was asked for."""
    code = (
        "import logging, sys, threading, warnings\nfrom tests.support.hostile import HOSTILE, SURROGATE\n"
        "from owl_stream.cli import app\n"
        "def fail():\n"
        "    warnings.warn(HOSTILE)\n    print(HOSTILE + SURROGATE, file=sys.stderr)\n"
        "    logging.getLogger(HOSTILE).warning('%s', HOSTILE, exc_info=ValueError(HOSTILE))\n"
        "    thread = threading.Thread(target=lambda: 1 / 0 or HOSTILE, name=HOSTILE)\n    thread.start()\n"
        "    thread.join()\n    raise RuntimeError(HOSTILE + SURROGATE)\n"
        "app.app.command('fail')(fail)\napp.main(['fail'])\n"
    )
    done = run("-c", code, OWL_TRACEBACK="1")
    held(done, 1)
    ours = [line for line in done.stderr.splitlines() if line.startswith("owl-stream: ")]
    assert len(ours) == 1
    assert "RuntimeError: a" in ours[0]
