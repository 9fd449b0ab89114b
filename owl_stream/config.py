"""Frozen settings. The only module that reads configuration files and environment variables.

A file is YAML (`owl_stream.strict_yaml`); unknown keys are refused with the nearest valid name, and every error names
file, key, value and expectation. `OWL_` + the path with double underscores overrides a value: `OWL_SERVER__PORT=9000`,
`OWL_DATASETS__TRAIN__SEED=3`. Flags of the command line lie over both.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from owl_stream.errors import ConfigError
from owl_stream.strict_yaml import read_settings_file, read_yaml

ENV_PREFIX = "OWL_"

_SECRETS = ("server", "access", "tokens")

LogLevel = Literal["debug", "info", "warning", "error"]


MAX_IMAGE_BYTES = 256 << 20
"""Of `max_image_bytes`, where nobody says otherwise: a photograph of 64 megapixels."""

MAX_SAMPLE_CPU_S = 60
"""CPU time after which a sample that is tried alone is condemned. A constant, so it is the same for all servers."""


@dataclass(frozen=True)
class PlanSettings:
    """What turns a manifest into global steps, and a global step into micro-batches."""

    global_batch_size: int
    seed: int
    shuffle: Literal["none", "block", "full"]
    shuffle_block_shards: int
    bucket_window: int
    modality: Literal["pure", "off"]
    last: Literal["fill", "drop"]
    text_token_cost: int
    vision_token_cost: int


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_word_is_a_number(cls, value: object, info: ValidationInfo) -> object:
        """`yes`, `on` and `off` are true and false in YAML, and those would be taken for 1 and 0."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {wanted, *get_args(wanted)} & {int, float}:
            raise ValueError("expected a number, not `yes`, `no`, `on` or `off`")
        return value


class AccessConfig(_Frozen):
    """Who may read. Without tokens everyone may who reaches the port, and beyond loopback nobody should."""

    tokens_file: Path | None = Field(None, description="lines `name: token`; read once, at the start")
    tokens: dict[str, SecretStr] = Field(
        default_factory=dict, description="for the environment: OWL_SERVER__ACCESS__TOKENS__NAME; an empty one is none"
    )
    allow_anonymous: bool = Field(False, description="listen beyond loopback without tokens all the same")
    metrics: Literal["token", "open"] = Field("token", description="they name datasets and tokens' names")


class TlsConfig(_Frozen):
    """PEM files, relative to the configuration. With `client_ca` every client must show a certificate signed by it."""

    certificate: Path | None = Field(None, description="the server's, with those that sign it; plain HTTP without")
    key: Path | None = Field(None, description="the certificate's, unencrypted")
    client_ca: Path | None = Field(None, description="whose certificates clients must show")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected both `certificate` and `key`, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("`client_ca` needs `certificate` and `key`")
        return self


def _network(value: object) -> object:
    """An address or a network as people write it: `10.0.0.7/8` is the network of that address."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError("expected an IP address or a network such as 10.0.0.0/8") from None


Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]


class CacheConfig(_Frozen):
    """Pixels on disk, for epochs, data sets and servers to share; relative to the configuration."""

    dir: Path = Field(description="made if it is not there; may be shared by servers")
    max_bytes: int = Field(100 << 30, ge=1 << 30, description="least recently used go first; 1/32 holds a row's pixels")


MOST_S = 86_400.0
"""Of every setting that is a time: a day. Clocks and timers take no number without end."""


class ServerConfig(_Frozen):
    """Where the server listens, who may read, and what it may spend."""

    host: str = Field("127.0.0.1", min_length=1, description="loopback, because anything wider needs tokens")
    port: int = Field(8000, ge=0, le=65535, description="0 lets the system choose")
    workers: int | None = Field(None, ge=0, le=1024, description="none: one per usable core; 0: assemble inline")
    trusted_proxies: tuple[Network, ...] = Field(
        default_factory=tuple, description="proxies (addresses or networks) whose X-Forwarded-Proto is believed"
    )
    access: AccessConfig = AccessConfig()
    tls: TlsConfig = TlsConfig()
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, for log collectors")
    log_level: LogLevel = Field("warning", description="info: streams come and go")
    max_streams: int = Field(64, ge=1, le=4096, description="more is refused with 429; each costs prefetch_bytes")
    max_streams_per_token: int | None = Field(None, ge=1, le=4096, description="none: only max_streams counts")
    max_connections: int = Field(4096, ge=4, le=1 << 20, description="past it the longest silent one makes room")
    prefetch_bytes: int = Field(192 << 20, ge=1, description="per stream, assembled ahead of the reader")
    shared_memory: bool = Field(True, description="readers on this machine copy frames from memory, not from a socket")
    cache: CacheConfig | None = Field(None, description="none: every epoch decodes anew")
    share_bytes: int = Field(128 << 20, ge=0, description="finished frames kept for consumers a little behind others")
    max_frame_bytes: int = Field(256 << 20, ge=1 << 10, le=2**32 - 1, description="a u32 holds it on the wire")
    idle_timeout_s: float = Field(
        120.0, gt=0, le=MOST_S, description="a stream whose reader takes nothing this long is ended"
    )
    heartbeat_s: float = Field(5.0, gt=0, le=5, description="silence after which a stream says it is alive")
    request_timeout_s: float = Field(10.0, gt=0, le=MOST_S, description="to receive a whole request")
    job_timeout_s: float = Field(
        120.0,
        gt=0,
        le=MOST_S,
        description="time for one assembly, or one read for a plan or page; past it storage stalls",
    )
    sample_cpu_s: int = Field(
        10, ge=1, le=MAX_SAMPLE_CPU_S, description="CPU time after which a sample is tried again alone, with 60 s"
    )
    grace_s: float = Field(
        5.0,
        gt=0,
        le=MOST_S,
        description="time from SIGTERM until the process has ended",
    )


_OFF = BeforeValidator(lambda value: "off" if value is False else value)
"""YAML reads `off` as false."""


class DatasetConfig(_Frozen):
    """One dataset: where its shards lie, what a row is, and in which order rows come."""

    shards: tuple[str, ...] = Field(min_length=1, description="tars, brace patterns, globs, directories")
    model: str | None = Field(
        None, min_length=1, description="a model's directory or hub id: settles what is not chosen, see layouts.md"
    )
    layout: str | None = Field(
        None, min_length=1, description="the model family; none: the model's, or owl3-240728 without one"
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="a tokenizers file, a directory with one, or a hub id; none: the model's"
    )
    chat_template: str | None = Field(
        None, min_length=1, description="a file of Jinja in place of the model's chat template"
    )
    train_on: Literal["all", "last"] | None = Field(
        None, description="which answers are learned: all (none), or the last, where a chat template writes the text"
    )
    positions: Literal["v5", "v4"] | None = Field(
        None, description="which transformers' rule counts positions (Qwen); none: v5"
    )
    chat: str | None = Field(None, description="the form of the text: what the layout offers, see layouts.md")
    vision: dict[str, Any] = Field(
        default_factory=dict, description="what the layout lets one choose about pictures, see layouts.md"
    )
    resize: Literal["simd", "pillow"] = Field("simd", description="pillow gives the bytes of the model's processor")
    max_length: int = Field(4096, ge=16, le=1 << 20, description="tokens of a row")
    max_image_pixels: int = Field(100_000_000, ge=1, description="a picture with more, by its header, is refused")
    max_image_bytes: int = Field(
        MAX_IMAGE_BYTES,
        ge=1 << 20,
        description="memory that decoding and resizing one picture may take, worked out from its header",
    )
    global_batch_size: int = Field(8, ge=1, le=1 << 16, description="rows of one optimizer step, over all ranks")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of every order")
    shuffle: Literal["none", "block", "full"] = Field("full", description="block: reads few shards at a time")
    shuffle_block_shards: int = Field(8, ge=1, description="shards read at a time under shuffle: block")
    bucket_window: int = Field(32, ge=1, le=1 << 16, description="steps whose rows are sorted by length together")
    modality: Annotated[Literal["pure", "off"], _OFF] = Field(
        "pure", description="pure: all rows of a step have images, videos, both, or none"
    )
    last: Literal["fill", "drop"] = Field("fill", description="the last step of an epoch: completed, or left out")
    on_too_long: Literal["truncate", "skip"] = Field("truncate", description="what is longer than max_length")
    on_bad_sample: Literal["mask", "fail"] = Field("mask", description="what is found bad at assembly")
    on_unknown_field: Literal["count", "refuse"] = Field(
        "count", description="a field of a record that has no meaning here, see records.md"
    )
    literal_markers: bool = Field(False, description="`<image>`, `<video>` of other tools are text in every record")
    keep_rows: bool = Field(True, description="token ids beside the index (4 bytes each): workers need not tokenise")
    text_token_cost: int = Field(1, ge=0, description="what dealing weighs a padded text token")
    vision_token_cost: int = Field(1, ge=0, description="what dealing weighs a vision token")

    @model_validator(mode="after")
    def _has_tokenizer(self) -> Self:
        if self.tokenizer is None and self.model is None:
            raise ValueError("expected `model`, or `tokenizer`")
        return self

    @property
    def plan(self) -> PlanSettings:
        """The part that turns a manifest into global steps."""
        return PlanSettings(
            global_batch_size=self.global_batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
            shuffle_block_shards=self.shuffle_block_shards,
            bucket_window=self.bucket_window,
            modality=self.modality,
            last=self.last,
            text_token_cost=self.text_token_cost,
            vision_token_cost=self.vision_token_cost,
        )


class Config(_Frozen):
    """A whole configuration. `base` is the directory that relative shard and tokenizer paths start from."""

    server: ServerConfig = ServerConfig()
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    base: Path = Path()

    def with_workers(self, default: int) -> Self:
        """The same configuration with so many workers, unless it says how many."""
        if self.server.workers is not None:
            return self
        return self.model_copy(update={"server": self.server.model_copy(update={"workers": default})})

    def allowing_anonymous(self) -> Self:
        """The same, but it may listen beyond loopback without tokens."""
        access = self.server.access.model_copy(update={"allow_anonymous": True})
        return self.model_copy(update={"server": self.server.model_copy(update={"access": access})})


def load_config(
    path: str | Path, environ: Mapping[str, str] | None = None, *, flags: Mapping[str, Any] | None = None
) -> Config:
    """Read a YAML configuration file and the `OWL_` overrides; `flags` as in `make_config`.

    Raises:
        ConfigError: naming file, key, value and what was expected.
    """
    path = Path(path)
    raw = read_yaml(read_settings_file(path, "the configuration", "give a file with --config"), str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping with `server` and `datasets`, got {type(raw).__name__}")
    return make_config(raw, origin=str(path), base=path.resolve().parent, environ=environ, flags=flags)


def make_config(
    raw: Mapping[str, Any],
    *,
    origin: str,
    base: Path,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Validate a configuration that came as a mapping (a parsed file, say); `origin` names it in errors.

    `flags` are what a command line says, in the same shape: they lie over the environment, as it lies over `raw`.

    Raises:
        ConfigError: naming origin, key, value and what was expected.
    """
    merged, origins = _with_environment(dict(raw), os.environ if environ is None else environ)
    merged = _with_flags(merged, flags or {}, origins)
    if "base" in merged:
        place, known = origins.get("base", origin), ", ".join(_known_keys(["base"]))
        raise ConfigError(f"{place}: unknown key `base`; known keys: {known}")
    try:
        return Config.model_validate({**merged, "base": base})
    except ValidationError as exc:
        raise ConfigError(*_explain(exc, origin, origins)) from None  # pydantic's own words would show tokens


def _with_environment(raw: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay `OWL_A__B=value` over raw["a"]["b"]; values are read by `_value`, keys match whatever their case."""
    origins: dict[str, str] = {}
    for variable in sorted(environ):
        parts = variable.removeprefix(ENV_PREFIX).split("__")
        if not variable.startswith(ENV_PREFIX) or len(parts) < 2 or not _meant_for_us(parts[0]):
            continue
        node: dict[str, Any] = raw
        path: list[str] = []
        for depth, part in enumerate(parts):
            key = next((k for k in node if isinstance(k, str) and k.lower() == part.lower()), part.lower())
            path.append(key)
            if key not in node:
                origins.setdefault(".".join(path), variable)
            if depth == 3 and tuple(path[:3]) == _SECRETS:
                if environ[variable]:  # `OWL_TOKEN=... docker compose up` leaves it empty where nobody gave one
                    node["__".join(parts[3:]).lower()] = environ[variable]  # as it is: a token of digits is no number
                break
            if depth == len(parts) - 1:
                node[key] = _value(variable, environ[variable], path)
                origins[".".join(path)] = variable
            else:
                child = node.get(key)
                node[key] = node = dict(child) if isinstance(child, dict) else {}
    return raw, origins


def _meant_for_us(section: str) -> bool:
    """Whether a variable's first part is a section, perhaps misspelt; Kubernetes and others have `OWL_..__..` too."""
    return bool(difflib.get_close_matches(section.lower(), ("server", "datasets"), n=1, cutoff=0.75))


def _value(variable: str, text: str, path: list[str]) -> Any:
    """What a variable says: YAML, but for keys that hold text, which is taken as it is (`::` is an address)."""
    field = _section(path[:-1]).model_fields.get(path[-1])
    if field is not None and field.annotation in (str, str | None):
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    return read_yaml(text, variable, "; put text with signs of YAML's in quotes", path)


def _with_flags(raw: dict[str, Any], flags: Mapping[str, Any], origins: dict[str, str], *above: str) -> dict[str, Any]:
    """`raw` with what the command line says in its place."""
    merged = dict(raw)
    for key, value in flags.items():
        path = (*above, key)
        if not isinstance(value, Mapping):
            merged[key], origins[".".join(path)] = value, "command line"
        elif isinstance(raw.get(key, {}), dict):  # else validation refuses it
            merged[key] = _with_flags(raw.get(key, {}), value, origins, *path)
    return merged


def _explain(exc: ValidationError, origin: str, origins: Mapping[str, str]) -> Iterator[str]:
    """A line for each fault."""
    errors = exc.errors(include_url=False)
    for error in errors[:_SHOWN]:
        location = [str(part) for part in error["loc"]]
        key = _short(".".join(location))
        nearest = (".".join(location[:depth]) for depth in range(len(location), 0, -1))
        place = next((origins[above] for above in nearest if above in origins), origin)
        if error["type"] == "extra_forbidden":
            known = _known_keys(location)
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
            if location[0] == "datasets" and location[-1] in _MOVED:
                hint = f"it is `{'.'.join(location[:-1])}.{_MOVED[location[-1]]}` now"
            yield f"{place}: unknown key `{key}`; {hint}"
        elif error["type"] == "missing":
            yield f"{place}: `{key}` is missing; it is required"
        else:
            text = error["msg"][:1].lower() + error["msg"][1:]
            yield f"{place}: `{key}`: {text}, got {_got(location, error['input'])}"
    if len(errors) > _SHOWN:
        yield f"{origin}: and {len(errors) - _SHOWN} more faults of this kind"


_SHOWN, _SHOWN_CHARACTERS = 20, 200

_MOVED = {"image_size": "vision.image_size", "cut": "vision.cut"}
"""Keys of a dataset that stood elsewhere once."""


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _got(location: list[str], value: object) -> str:
    """A wrong value in words: short, and without what may hold a token."""
    if tuple(location[:2]) == _SECRETS[:2]:
        return "what is not shown here"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return "text" if location == ["server"] else _short(repr(value[:_SHOWN_CHARACTERS]))
    return _short(repr(value))


def _known_keys(location: list[str]) -> list[str]:
    return [name for name in _section(location[:-1]).model_fields if name != "base"]


_SECTIONS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Config,
    ("server",): ServerConfig,
    ("server", "access"): AccessConfig,
    ("server", "tls"): TlsConfig,
    ("server", "cache"): CacheConfig,
}


def _section(path: list[str]) -> type[BaseModel]:
    """What the keys below a path belong to."""
    if len(path) == 2 and path[0] == "datasets":
        return DatasetConfig
    return _SECTIONS.get(tuple(path), _Frozen)
