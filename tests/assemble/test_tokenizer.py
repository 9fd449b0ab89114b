"""The concrete tokenizer: found, read once, named by content, shipped as bytes."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from owl_stream.assemble.tokenizer import load_tokenizer
from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts import LAYOUT_NAMES, get_layout
from owl_stream.layouts.owl3 import TOKENS
from tests.support.qwen2 import qwen2_tokenizer_path
from tests.support.tokenizer import small_tokenizer


def test_the_real_vocabulary_is_the_released_one(shared_data: Path) -> None:
    """Merges recovered from the ranks, and the vocabulary, equal those of the release."""
    built = json.loads(qwen2_tokenizer_path().read_text(encoding="utf-8"))
    released = json.loads((shared_data / "qwen2-tokenizer.json").read_text(encoding="utf-8"))
    assert built["model"]["merges"] == released["model"]["merges"]
    assert built["model"]["vocab"] == released["model"]["vocab"]
    assert built["normalizer"] == released["normalizer"]
    assert built["pre_tokenizer"] == released["pre_tokenizer"]
    assert [(t["id"], t["content"]) for t in built["added_tokens"]] == [
        (t["id"], t["content"]) for t in released["added_tokens"]
    ]


def test_a_path_is_relative_to_the_base_and_the_digest_to_neither(tmp_path: Path) -> None:
    """The same content under another name has the same digest; other content has another."""
    small_tokenizer(tmp_path / "a" / "t.json")
    (tmp_path / "copy.json").write_bytes((tmp_path / "a" / "t.json").read_bytes())
    small_tokenizer(tmp_path / "other.json", vocab_size=350)
    one, two = load_tokenizer("a/t.json", tmp_path), load_tokenizer(str(tmp_path / "copy.json"), Path())
    assert one.digest == two.digest
    assert len(one.digest) == 32
    assert load_tokenizer("other.json", tmp_path).digest != one.digest


def test_offsets_are_characters_and_special_tokens_single(tmp_path: Path) -> None:
    """Ids come with character ranges, also behind a letter of several bytes."""
    tokenizer = load_tokenizer(small_tokenizer(tmp_path / "t.json").name, tmp_path, TOKENS).build()
    text = "猫 in<|im_end|>"
    tokens = tokenizer.encode(text)
    assert len(tokens.ids) == len(tokens.offsets)
    assert tokens.offsets[-1] == (4, len(text))
    assert tokenizer.encode("<|endoftext|>").ids == (tokenizer.pad_id,)
    assert len(tokenizer.encode("<|image|>").ids) > 1


def test_a_cached_chunk_is_the_same_as_a_fresh_one(tmp_path: Path) -> None:
    """Short chunks are remembered, long ones are not; neither changes what comes out."""
    file = load_tokenizer(small_tokenizer(tmp_path / "t.json").name, tmp_path, TOKENS)
    tokenizer = file.build()
    for text in ("\n<|im_start|>user\n", "x" * 64, "x" * 65, ""):
        assert tokenizer.encode(text) == tokenizer.encode(text) == file.build().encode(text)
    assert tokenizer.encode("<|image|>") is tokenizer.encode("<|image|>")


def test_the_file_travels_as_bytes(tmp_path: Path) -> None:
    """A worker rebuilds it from the pickle after the file is gone."""
    path = small_tokenizer(tmp_path / "t.json")
    file = load_tokenizer(path.name, tmp_path, TOKENS)
    path.unlink()
    copy = pickle.loads(pickle.dumps(file))
    assert copy == file
    assert copy.build().encode("A cat").ids == file.build().encode("A cat").ids


def test_settings_of_whoever_saved_the_file_do_not_cut_rows(tmp_path: Path) -> None:
    """Padding and truncation that a file carries are the layout's business, and switched off."""
    path = small_tokenizer(tmp_path / "t.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert len(load_tokenizer(path.name, tmp_path, TOKENS).build().encode("zzzzzzzzzz").ids) > 3


def test_a_missing_special_token_is_named(tmp_path: Path) -> None:
    """Without `<|im_end|>` as one token the chat text would mean something else."""
    path = small_tokenizer(tmp_path / "t.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<|im_end|>"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"missing <\|im_end\|>: .* mPLUG/mPLUG-Owl3-7B-241101 for owl3-241101"):
        load_tokenizer(path.name, tmp_path, TOKENS)


def test_a_models_directory_stands_for_its_tokenizer(tmp_path: Path) -> None:
    """As people name models; one without a tokenizer.json is told how to get it, and no hub is asked."""
    made = small_tokenizer(tmp_path / "models" / "owl" / "tokenizer.json")
    assert load_tokenizer("models/owl", tmp_path).content == made.read_bytes()
    made.rename(made.with_name("vocab.json"))
    with pytest.raises(ConfigError, match=r"a directory without tokenizer\.json; .*save_pretrained"):
        load_tokenizer("models/owl", tmp_path)


def test_a_tokenizer_that_git_has_not_fetched_is_named(tmp_path: Path) -> None:
    """A hub repository that was cloned without Git LFS."""
    (tmp_path / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(ConfigError, match="a Git LFS pointer, not the tokenizer"):
        load_tokenizer("tokenizer.json", tmp_path, TOKENS)


def test_every_layout_has_a_model_whose_tokenizer_is_named() -> None:
    """A new layout says where its tokenizer comes from."""
    released = [get_layout(name).released for name in LAYOUT_NAMES]
    assert len(set(released)) == len(LAYOUT_NAMES)
    for hub_id in released:
        assert re.fullmatch(r"[\w-]+/[\w.-]+", hub_id)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": 3}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file of something else is a configuration error that names it."""
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer t\.json: expected a `tokenizers` JSON file"):
        load_tokenizer("t.json", tmp_path, TOKENS)


@pytest.mark.parametrize("spec", ["missing.json", "data/missing.json", "/nowhere/at/all", "../x/y/z"])
def test_a_path_that_is_not_there_asks_no_network(tmp_path: Path, spec: str) -> None:
    """What looks like a path is looked up as one, and the message says what was expected."""
    with pytest.raises(
        ConfigError, match=r"tokenizer not found: expected a tokenizers file or a hub id .* no file"
    ) as caught:
        load_tokenizer(spec, tmp_path)
    for name in LAYOUT_NAMES:
        assert f"{get_layout(name).released} for {name}" in str(caught.value)
    assert "hf download" in str(caught.value)


def test_a_hub_that_does_not_answer_is_a_clear_error(tmp_path: Path) -> None:
    """A hub id without a reachable hub is one line, in a process of its own whose hub is a closed port."""
    code = (
        "import sys; from pathlib import Path\n"
        "from owl_stream.assemble.tokenizer import load_tokenizer\n"
        "from owl_stream.errors import ConfigError\n"
        "try: load_tokenizer('nobody/nothing', Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error)\n"
    )
    environment = {
        **os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("tokenizer not found: expected a tokenizers file or a hub id (org/name), got 'nobody")
    assert done.stdout.count("\n") == 1


def test_fault_72_a_lone_surrogate_is_the_samples_fault(tmp_path: Path) -> None:
    """Fault 72: text that UTF-8 cannot hold blames the sample, not the process; NUL is text."""
    tokenizer = load_tokenizer(small_tokenizer(tmp_path / "t.json").name, tmp_path, TOKENS).build()
    for text in ("a\ud800", "a\ud800" * 100):
        with pytest.raises(SampleError, match=r"UTF-8 can hold, got 'a\\ud800") as caught:
            tokenizer.encode(text)
        assert caught.value.reason == "text_surrogate"
    assert len(tokenizer.encode("\x00").ids) == 1
