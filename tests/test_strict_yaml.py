"""Settings that no reader can take, or that mean two things, are one line: file, line, fault, nothing of a token."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from owl_stream import strict_yaml
from owl_stream.config import load_config
from owl_stream.errors import ConfigError
from owl_stream.server.access import read_tokens
from tests.cli.command import one_line, run
from tests.support.hostile import assert_inert

MINIMAL = "datasets: {train: {shards: [a.tar], tokenizer: t.json}}\n"
SECRET = "s3cret-token-0123456789"

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGED_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)

UNREADABLE = {
    "int of nothing": ("x:\n  !!int ''\n", 2),
    "int of text": ("x: !!int twelve\n", 1),
    "int of a list": ("x: !!int [1]\n", 1),
    "int of underscores": ("x: !!int _\n", 1),
    "int of a sign": ("x: !!int -\n", 1),
    "octal": ("x: 09\ny: !!int 09\n", 2),
    "float of nothing": ("x: !!float ''\n", 1),
    "float of text": ("x: !!float twelve\n", 1),
    "float that is too long": (f"x: !!float 1{':1' * 400}.5\n", 1),
    "bool of text": ("x: !!bool perhaps\n", 1),
    "null of text": (f"x: !!null {SECRET}\n", 1),
    "timestamp of text": ("\n\nx: !!timestamp now\n", 3),
    "a day that there is not": ("x: 2024-13-45\n", 1),
    "binary of text": (f"x: !!binary {SECRET}ä\n", 1),
    "binary cut off": ("x: !!binary abcde\n", 1),
    "a set of a list": ("x: !!set [1]\n", 1),
    "an ordered map of text": ("x: !!omap text\n", 1),
    "pairs of text": ("x: !!pairs [a]\n", 1),
    "a tag of Python": ("x: !!python/object/apply:os.system [ls]\n", 1),
    "a tag that may be a token": (f"x: !{SECRET}\n", 1),
    "a tag's handle that may be a token": (f"x: !{SECRET}!y z\n", 1),
    "an alias that may be a token": (f"x: *{SECRET}\n", 1),
    "an anchor that may be a token": (f"x: &{SECRET} 1\ny: &{SECRET} 2\n", 2),
    "an alias inside its anchor": ("x: &a [*a]\n", 1),
    "an alias inside its anchor's merge": ("x: &a {<<: *a}\n", 1),
    "a list as a key": ("x: 1\n? [a]\n: 1\n", 2),
    "a mapping as a key": ("? {a: b}\n: 1\n", 1),
    "a key that is a loop": ("? &a [*a]\n: 1\n", 1),
    "deep lists": ("\n\nx: " + "[" * 100_000 + "\n", 3),
    "deep mappings": ("x: " + "{a: " * 100_000 + "\n", 1),
    "deep keys": ("? " * 50_000 + "a\n", 1),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(200)) + "\n", 32),
    "aliases of aliases": (LAUGHS, 6),
    "merges of merges": (MERGED_LAUGHS, 7),
    "a key twice": ("server: {port: 1}\n\nserver: {}\n", 3),
    "a key twice, below": ("server:\n  port: 1\n  host: a\n  port: 2\n", 4),
    "a key twice, in quotes": ("server: {port: 1, 'port': 2}\n", 1),
    "a merge twice": ("a: &a {b: 1}\nx:\n  <<: *a\n  <<: *a\n", 4),
    "a token's name twice": (f"server: {{access: {{tokens: {{alice: {SECRET}, {SECRET}: x, {SECRET}: y}}}}}}\n", 1),
    "a merge of text": ("x:\n  <<: text\n", 2),
    "a merge of a list of text": ("x:\n  <<: [text]\n", 2),
    "a merge of nothing": ("x:\n  <<:\n", 2),
    "a number of a million digits": (f"x: {'9' * 1_000_000}\n", 1),
    "a number of a million bits": (f"x: 0x{'f' * 250_000}\n", 1),
    "a number of many minutes": (f"x: 1{':10' * 100_000}\n", 1),
    "NUL": ("x: 1\ny: \0\n", 2),
    "an escape": ("x: 1\ny: \x1b[31m\n", 2),
    "a control character of C1": ("y: '\x9b'\n", 1),
    "half a character": ('x: "\\ud83e', 1),
    "two documents": ("x: 1\n---\ny: 1\n", 2),
    "a tab": ("x:\n\t- 1\n", 2),
    "a quote that is not closed": (f"server: {{access: {{tokens: {{alice: '{SECRET}", 1),
    "a colon in text": (f"x: alice: {SECRET}\n", 1),
}


@pytest.mark.parametrize(("text", "line"), UNREADABLE.values(), ids=UNREADABLE)
def test_fault_138_what_yaml_cannot_take_is_one_line(tmp_path: Path, text: str, line: int) -> None:
    """File, line and what is wrong, as a ConfigError; nothing of a token; and quickly, within little memory."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(text + MINIMAL if text.endswith("\n") else text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    said = assert_inert(str(caught.value))
    assert said.startswith(f"{path}: not valid YAML: line {line}")
    assert len(said.splitlines()) == 1
    assert SECRET not in said
    assert len(said) < len(str(path)) + 250


@pytest.mark.parametrize(("text", "line"), UNREADABLE.values(), ids=UNREADABLE)
def test_fault_138_a_variable_is_read_as_strictly(tmp_path: Path, text: str, line: int) -> None:
    """The same through the environment, with the variable's name."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {"OWL_SERVER": text, "OWL_SERVER__CACHE": text})
    said = assert_inert(str(caught.value))
    assert said.startswith(f"OWL_SERVER__CACHE: not valid YAML: line {line}")
    assert SECRET not in said


def test_fault_138_a_token_given_twice_in_a_variable_is_not_repeated(tmp_path: Path) -> None:
    """The names below `tokens` may be tokens by mistake."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(MINIMAL)
    with pytest.raises(ConfigError, match="a key is given twice") as caught:
        load_config(path, {"OWL_SERVER__ACCESS__TOKENS": f"{{{SECRET}: a, {SECRET}: b}}"})
    assert SECRET not in str(caught.value)


def test_fault_138_what_people_write_is_read(tmp_path: Path) -> None:
    """Anchors, merges that a mapping overrides, a mark of UTF-8 in front, comments, CR LF, other scripts."""
    path = tmp_path / "owl-stream.yaml"
    lines = [
        "# ours",
        "datasets:",
        "  c: &c",
        "    shards: &tars [a.tar]",
        "    tokenizer: 日本.json",
        "    seed: 1",
        "  a: {<<: *c, shards: *tars}",
        "  b:",
        "    <<: [*c]",
        "    seed: 0x2",
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    datasets = load_config(path, {}).datasets
    assert [datasets[name].seed for name in "cab"] == [1, 1, 2]
    assert datasets["b"].tokenizer == "日本.json"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_fault_138_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    """Saved by an editor of another system: the line and the remedy, no traceback."""
    path = tmp_path / "owl-stream.yaml"
    path.write_bytes(("# ä\n" + MINIMAL).encode(encoding))
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert "line 1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {idle_timeout_s: .inf}", "finite number"),
        ("server: {grace_s: .nan}", "number"),
        (f"server: [{{access: {{tokens: {{alice: {SECRET}}}}}}}]", "got a list of 1"),
        (f"server: 'access: {SECRET}'", "got text"),
        (f"server: {{tls: {{key: {{alice: {SECRET}}}}}}}", "got a mapping"),
        ("server: {port: " + "x" * 100_000 + "}", "x..."),
        ("server: {" + "p" * 900 + ": 1}", "unknown key `server.ppp"),
        ("server: {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}", "and 980 more faults"),
        ("1: 2\nnull: 3", "`1`"),
    ],
)
def test_fault_138_wrong_values_are_short_and_without_secrets(tmp_path: Path, text: str, expected: str) -> None:
    """However large a value or however many there are, the message can be read; it holds no token."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(f"{text}\n{MINIMAL}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    said = str(caught.value)
    assert expected in said
    assert SECRET not in said
    assert len(said) < 10_000
    assert caught.value.__cause__ is None


def test_fault_138_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    """No traceback, exit code 2, and within 1 GiB of addresses however many laughs there are."""
    path = tmp_path / "owl-stream.yaml"
    for text in ("x: !!int ''\n", LAUGHS, MERGED_LAUGHS, "x: " + "[" * 100_000):
        path.write_text(text)
        assert "not valid YAML: line" in one_line(run("-m", "owl_stream.cli", "index", "--config", str(path)))


def test_fault_138_files_that_are_none_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, a device without end, a pipe that nobody writes to, a huge file: for every settings file."""
    monkeypatch.setattr(strict_yaml, "PIPE_WITHIN_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 40)
    good = tmp_path / "good.yaml"
    for name, why in {
        ".": "Is a directory",
        "/dev/zero": "expected a file or a pipe",
        "pipe": "nothing was written to this pipe",
        "huge": "at most 8 MiB",
        "missing": "No such file",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(ConfigError, match=why):
            load_config(tmp_path / name, {})
        good.write_text(MINIMAL)
        config = load_config(good, {"OWL_SERVER__ACCESS__TOKENS_FILE": name})
        with pytest.raises(ConfigError, match=f"(?s)cannot read the tokens.*{why}"):
            read_tokens(config)


def test_fault_138_a_pipe_with_a_writer_is_read_whole(tmp_path: Path) -> None:
    """`--config <(...)`: in pieces, by a writer that comes late, and through a real shell."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("w") as out:
            for piece in (MINIMAL[:5], MINIMAL[5:], "#" * 200_000):
                out.write(piece)
                out.flush()

    writer = threading.Thread(target=write)
    writer.start()
    assert load_config(pipe, {}).datasets["train"].tokenizer == "t.json"
    writer.join()
    code = "import sys; from owl_stream.config import load_config; print(load_config(sys.argv[1], {}).server.port)"
    line = f"'{sys.executable}' -c '{code}' <(echo 'server: {{port: 7}}'; echo '{MINIMAL.strip()}')"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7"
