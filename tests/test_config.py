"""Configuration: frozen, strict, and explicit about where a wrong value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from owl_stream.config import load_config
from owl_stream.errors import ConfigError

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
    assert (train.layout, train.chat, train.resize) == ("owl3-240728", "release", "simd")
    assert (train.recipe.image_size, train.recipe.cut, train.recipe.chat) == (384, "single", "release")
    assert (train.max_length, train.global_batch_size, train.bucket_window) == (4096, 8, 32)
    assert (train.shuffle, train.modality, train.last, train.on_bad_sample) == ("full", "pure", "fill", "mask")
    assert (config.server.host, config.server.port, config.base) == ("127.0.0.1", 8000, path.parent)
    assert train.plan.vision_tokens_per_crop == 729


@pytest.mark.parametrize(
    ("settings", "image_size", "cut"),
    [
        ("layout: owl3-240728", 384, "single"),
        ("layout: owl3-241101", 378, "single"),
        ("layout: owl3-241101, image_size: 384", 384, "single"),
        ("layout: owl3-240728, image_size: 378", 378, "single"),
        ("image_size: null, cut: null", 384, "single"),
        ("chat: swift", 384, "all"),
        ("chat: swift, cut: off", 384, "off"),
        ("chat: swift, cut: single, layout: owl3-241101", 378, "single"),
        ("chat: release, cut: all", 384, "all"),
    ],
)
def test_what_is_left_out_follows_layout_and_chat(tmp_path: Path, settings: str, image_size: int, cut: str) -> None:
    """The side of a crop is the release's, and ms-swift cuts every image; what is given is taken."""
    path = tmp_path / "owl-stream.yaml"
    path.write_text(f"datasets: {{train: {{shards: ['a.tar'], tokenizer: t.json, {settings}}}}}\n")
    recipe = load_config(path, {}).datasets["train"].recipe
    assert (recipe.image_size, recipe.cut) == (image_size, cut)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("IMAGE_SIZE", "13", "greater than or equal to 14, got 13"),
        ("IMAGE_SIZE", "large", "got 'large'"),
        ("CHAT", "chatml", "'release' or 'swift', got 'chatml'"),
        ("CUT", "every", "'off', 'single' or 'all', got 'every'"),
    ],
)
def test_sizes_and_forms_that_are_none_are_refused(path: Path, key: str, value: str, message: str) -> None:
    """The error names variable, key, and what was expected."""
    variable = f"OWL_DATASETS__TRAIN__{key}"
    with pytest.raises(ConfigError, match=f"^{variable}: `datasets.train.{key.lower()}`.*{message}"):
        load_config(path, {variable: value})


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
    path.write_text("datasets: {train: {shards: [a.tar], tokenizer: t.json, cut: off, modality: off}}\n")
    train = load_config(path, {}).datasets["train"]
    assert (train.cut, train.modality) == ("off", "off")
    path.write_text(MINIMAL)
    assert load_config(path, {"OWL_DATASETS__TRAIN__CUT": "off"}).datasets["train"].cut == "off"
    with pytest.raises(ConfigError, match=r"`datasets.train.cut`: input should be 'off', 'single' or 'all', got True"):
        load_config(path, {"OWL_DATASETS__TRAIN__CUT": "on"})


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
        ("datasets: {train: {shards: [a]}}\n", "`datasets.train.tokenizer` is missing"),
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
