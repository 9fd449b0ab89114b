"""Configuration: frozen, strict, and explicit about where a wrong value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from owl_stream.config import load_config
from owl_stream.errors import ConfigError
from owl_stream.layouts import settle_all, settle_recipe
from owl_stream.layouts.owl3 import Owl3Settings

MINIMAL = "datasets: {train: {shards: ['a.tar'], tokenizer: t.json}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A minimal configuration file."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(MINIMAL)
    return path


def test_defaults_are_the_designs(path: Path) -> None:
    """A file with shards and a tokenizer is enough, and means what the documentation says."""
    config = load_config(path, {})
    train = config.datasets["train"]
    assert (train.layout, train.model, train.chat, train.resize) == (None, None, None, "simd")
    assert settle_recipe(train).settings == Owl3Settings(384, "single", "release")
    assert settle_recipe(train).layout == "owl3-240728"
    assert (train.max_length, train.global_batch_size, train.bucket_window) == (4096, 8, 32)
    assert (train.shuffle, train.modality, train.last, train.on_bad_sample) == ("full", "pure", "fill", "mask")
    assert (config.server.host, config.server.port, config.base) == ("127.0.0.1", 8000, path.parent)


@pytest.mark.parametrize(
    ("settings", "image_size", "cut"),
    [
        ("layout: owl3-240728", 384, "single"),
        ("layout: owl3-241101", 378, "single"),
        ("layout: owl3-241101, vision: {image_size: 384}", 384, "single"),
        ("layout: owl3-240728, vision: {image_size: 378}", 378, "single"),
        ("vision: {image_size: null, cut: null}", 384, "single"),
        ("chat: swift", 384, "all"),
        ("chat: swift, vision: {cut: off}", 384, "off"),
        ("chat: swift, vision: {cut: single}, layout: owl3-241101", 378, "single"),
        ("chat: release, vision: {cut: all}", 384, "all"),
    ],
)
def test_what_is_left_out_follows_layout_and_chat(tmp_path: Path, settings: str, image_size: int, cut: str) -> None:
    """The side of a crop is the release's, and ms-swift cuts every image; what is given is taken."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(f"datasets: {{train: {{shards: ['a.tar'], tokenizer: t.json, {settings}}}}}\n")
    chosen = settle_recipe(load_config(path, {}).datasets["train"]).settings
    assert isinstance(chosen, Owl3Settings)
    assert (chosen.image_size, chosen.cut) == (image_size, cut)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("vision: {image_size: 13}", "`vision.image_size`: expected a whole number from 14 to 4096, got 13"),
        ("vision: {image_size: large}", "`vision.image_size`: .* got 'large'"),
        ("vision: {image_size: yes}", "`vision.image_size`: .* got True"),
        ("vision: {cut: every}", "`vision.cut`: expected off or single or all, got 'every'"),
        ("vision: {cut: on}", "`vision.cut`: expected off or single or all, got True"),
        ("vision: {image_siz: 28}", "unknown key `vision.image_siz`; did you mean `image_size`"),
        ("vision: {max_pixels: 28}", "unknown key `vision.max_pixels`; "),
        ("chat: chatml", "`chat`: expected release or swift, got 'chatml'"),
        ("layout: owl4", "`layout`: expected owl3-240728, .*, or MODULE:CLASS, got 'owl4'"),
    ],
)
def test_what_no_layout_offers_is_refused(tmp_path: Path, settings: str, message: str) -> None:
    """The error names file, dataset, key, and what was expected."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(f"datasets: {{train: {{shards: ['a.tar'], tokenizer: t.json, {settings}}}}}\n")
    with pytest.raises(ConfigError, match=f"^here: datasets.train: {message}"):
        settle_all(load_config(path, {}).datasets, "here")


@pytest.mark.parametrize("key", ["image_size", "cut"])
def test_a_key_in_its_old_place_is_told_its_new_one(path: Path, key: str) -> None:
    """What stood beside `layout` before stands under `vision`."""
    with pytest.raises(
        ConfigError, match=rf"unknown key `datasets.train.{key}`; it is `datasets.train.vision.{key}` now"
    ):
        load_config(path, {f"OWL_DATASETS__TRAIN__{key.upper()}": "28"})


def test_settings_are_frozen(path: Path) -> None:
    """Nobody changes a setting after it was validated."""
    config = load_config(path, {})
    with pytest.raises(ValidationError):
        config.server.port = 1  # type: ignore[misc] # that it fails is the point


def test_the_environment_overrides_the_file(path: Path) -> None:
    """`OWL_` + path, whatever the case; other OWL_ variables are not ours."""
    environ = {"OWL_SERVER__PORT": "9000", "OWL_DATASETS__TRAIN__SEED": "3", "OWL_TOKEN": "secret", "PATH": "x"}
    config = load_config(path, environ)
    assert (config.server.port, config.datasets["train"].seed) == (9000, 3)


def test_a_wrong_variable_is_named(path: Path) -> None:
    """The error names the variable, not the file, where the value came from the environment."""
    with pytest.raises(ConfigError, match=r"^OWL_SERVER__PORT: `server.port`.*'many'"):
        load_config(path, {"OWL_SERVER__PORT": "many"})
    with pytest.raises(ConfigError, match=r"OWL_SERVER__PROT: unknown key `server.prot`; did you mean `port`"):
        load_config(path, {"OWL_SERVER__PROT": "1"})


@pytest.mark.parametrize(("host", "read"), [("::", "::"), ("*", "*"), ('"10.0.0.1"', "10.0.0.1"), ("'x'", "x")])
def test_text_in_a_variable_is_taken_as_it_is(path: Path, host: str, read: str) -> None:
    """All interfaces are no YAML, a name of digits is no number; quotes around it are not meant."""
    config = load_config(path, {"OWL_SERVER__HOST": host, "OWL_DATASETS__TRAIN__TOKENIZER": "123"})
    assert (config.server.host, config.datasets["train"].tokenizer) == (read, "123")


def test_off_needs_no_quotes(path: Path) -> None:
    """YAML reads a bare `off` as false, in a file and in a variable; we know what is meant."""
    path.write_text("datasets: {train: {shards: [a.tar], tokenizer: t.json, vision: {cut: off}, modality: off}}\n")
    train = load_config(path, {}).datasets["train"]
    assert (settle_recipe(train).settings, train.modality) == (Owl3Settings(384, "off", "release"), "off")
    path.write_text(MINIMAL)
    train = load_config(path, {"OWL_DATASETS__TRAIN__VISION__CUT": "off"}).datasets["train"]
    assert settle_recipe(train).settings == Owl3Settings(384, "off", "release")
    with pytest.raises(ConfigError, match=r"`datasets.train.modality`: input should be 'pure' or 'off', got True"):
        load_config(path, {"OWL_DATASETS__TRAIN__MODALITY": "on"})


def test_variables_that_others_set_are_not_ours(path: Path) -> None:
    """Kubernetes tells every container of the services beside it, and a service may be called `owl-stream--canary`."""
    load_config(path, {"OWL_STREAM__CANARY_SERVICE_HOST": "10.0.0.1", "OWL_SERVER_PORT": "tcp://10.0.0.1:80"})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OWL_DATASETS__TRAIN__SHARDS", "*.tar", "not valid YAML: line 1, column 2: .*; put text .* in quotes"),
        ("OWL_SERVER__ACCESS__TOKENS", "{a: 'very-secret-token", "not valid YAML"),
        ("OWL_DATASETS__TRAIN__SEED", "2024-13-45", "not valid YAML: line 1, column 1: unreadable as timestamp"),
        ("OWL_SERVER__HOST", "", "`server.host`: .* at least 1 character"),
        ("OWL_SERVR__PORT", "1", "unknown key `servr`; did you mean `server`"),
        ("OWL_DATASET__TRAIN__SEED", "3", "unknown key `dataset`; did you mean `datasets`"),
        ("OWL_SERVER__ACCES__METRICS", "open", "unknown key `server.acces`; did you mean `access`"),
        ("OWL_DATASETS__TRIAN__SEED", "3", "`datasets.trian.shards` is missing"),
    ],
)
def test_a_variable_that_cannot_be_is_named_and_not_repeated(
    path: Path, variable: str, value: str, message: str
) -> None:
    """Misspelt anywhere, or not YAML: the message begins with the variable and holds nothing of a secret."""
    with pytest.raises(ConfigError, match=f"^{variable}: {message}") as caught:
        load_config(path, {variable: value})
    assert "secret" not in str(caught.value)


def test_flags_lie_over_the_environment_and_the_file(path: Path) -> None:
    """What somebody types now is what they mean; a wrong flag is not blamed on the file."""
    path.write_text("server: {port: 1, host: 10.0.0.1, workers: 3}\n" + MINIMAL)
    environ = {"OWL_SERVER__PORT": "2", "OWL_SERVER__HOST": "10.0.0.2"}
    server = load_config(path, environ, flags={"server": {"port": 3}}).server
    assert (server.port, server.host, server.workers) == (3, "10.0.0.2", 3)
    with pytest.raises(ConfigError, match=r"^command line: `server.port`"):
        load_config(path, environ, flags={"server": {"port": -1}})


@pytest.mark.parametrize("flags", [{}, {"server": {}}, {"server": {"port": 3}}])
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{prot: 1}", "unknown key `server.prot`"),
        ("{workers: many}", "`server.workers`"),
        ("{tls: {key: k}}", "`server.tls`"),
        ("5", "`server`"),
        ("", "`server`"),
    ],
)
def test_a_files_mistakes_are_the_files(path: Path, section: str, message: str, flags: dict[str, object]) -> None:
    """Whatever flags there are besides, and a section that is none is not passed over in silence."""
    path.write_text(f"server: {section}\n" + MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {}, flags=flags)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {}\n", "`datasets` is missing"),
        ("- 1\n", "expected a mapping"),
        ("a: [\n", "not valid YAML"),
        ("dataset: {}\n" + MINIMAL, "did you mean `datasets`"),
        ("datasets: {train: {shards: [], tokenizer: t}}\n", "datasets.train.shards"),
        ("datasets: {train: {shards: [a]}}\n", "`datasets.train`: .*expected `model`, or `tokenizer`"),
        ("datasets: {}\n", "`datasets`"),
        ("base: /\n" + MINIMAL, "unknown key `base`; known keys: server, datasets"),
        ("x: 2024-13-45\n", "not valid YAML"),
    ],
)
def test_wrong_files_are_refused_by_name(path: Path, text: str, message: str) -> None:
    """File, key and expectation stand in the message."""
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, {})
    assert str(path) in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a directory and bytes that are not text are configuration errors."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", ".", "binary"):
        with pytest.raises(ConfigError):
            load_config(tmp_path / name, {})
