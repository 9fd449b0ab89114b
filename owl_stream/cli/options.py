"""Options that several commands share, and the configuration that they amount to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from owl_stream.config import Config, DatasetConfig, load_config, make_config
from owl_stream.errors import ConfigError, UnknownDatasetError
from owl_stream.layouts import LAYOUT_NAMES, released_models, settle_all

DEFAULT_CONFIG = Path("owl-stream.yaml")
ALONE = "train"
"""What a dataset is called that flags alone describe."""
_VARIABLE = f"OWL_DATASETS__{ALONE.upper()}__"

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; default: ./owl-stream.yaml if it is there.")
]
ShardsOption = Annotated[
    list[str] | None,
    typer.Option("--shards", "-s", help="Shards: a tar, a brace pattern, a glob or a directory; may be repeated."),
]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", "-t", help="The model's tokenizer.json, a directory with one, or a hub id.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="The model's directory or hub id: settles layout, tokenizer, pixels, chat."),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        help="What a batch looks like; default: the model's, or owl3-240728.",
        autocompletion=lambda: list(LAYOUT_NAMES),
    ),
]
BatchOption = Annotated[
    int | None, typer.Option("--global-batch-size", "-g", help="Rows of one optimizer step, over all ranks; default 8.")
]
IndexOption = Annotated[
    Path | None, typer.Option("--index-dir", help="Where the index lies; default: .owl-index beside the shards.")
]
DatasetOption = Annotated[str | None, typer.Option("--dataset", "-d", help="Which dataset, where there are several.")]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", "-p", min=1, help="Processes to work in; default: one per usable core.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there; progress is on stderr.")
]


def settings(
    config: Path | None,
    shards: list[str] | None,
    model: str | None,
    tokenizer: str | None,
    layout: str | None,
    global_batch_size: int | None = None,
    **server: str | int | None,
) -> Config:
    """The configuration of a file, or of flags alone; flags lie over the environment, and over a file.

    Raises:
        ConfigError: neither, both, or a value that cannot be.
    """
    flags = {
        "shards": shards,
        "model": model,
        "tokenizer": tokenizer,
        "layout": layout,
        "global_batch_size": global_batch_size,
    }
    dataset = {key: value for key, value in flags.items() if value is not None}
    given = {key: value for key, value in server.items() if value is not None}
    if dataset and config is not None:
        names = ", ".join("--" + key.replace("_", "-") for key in dataset)
        raise ConfigError(f"--config describes the datasets: leave out {names}")
    if not dataset:
        path = config or DEFAULT_CONFIG
        if config is None and not path.exists():
            raise ConfigError(f"no dataset: expected --config FILE, ./{path}, or --shards and --model (or --tokenizer)")
        return _settled(load_config(path, flags={"server": given}), str(path))
    _require_both(dataset)
    whole: dict[str, Any] = {"server": given, "datasets": {ALONE: dataset}}
    return _settled(make_config({}, origin="command line", base=Path.cwd(), flags=whole), "command line")


def _settled(config: Config, origin: str) -> Config:
    settle_all(config.datasets, origin, config.base)
    return config


def _require_both(dataset: Mapping[str, Any]) -> None:
    """Shards and a model or a tokenizer, each as a flag or as a variable."""
    for name in ("shards", "tokenizer"):
        names = ("model", "tokenizer") if name == "tokenizer" else (name,)
        if not any(each in dataset or _VARIABLE + each.upper() in os.environ for each in names):
            raise ConfigError(
                f"--{name} is missing: without --config, --shards and either --model or --tokenizer are needed; a "
                f"tokenizer is the model's tokenizer.json, or its hub id ({released_models()})"
            )


def choose(config: Config, name: str | None) -> tuple[str, DatasetConfig]:
    """The dataset of that name, or the only one.

    Raises:
        UnknownDatasetError: no such name, or several and no name; the message lists them.
    """
    names = ", ".join(config.datasets)
    if name is None:
        if len(config.datasets) > 1:
            raise UnknownDatasetError(f"there are several datasets: choose one with --dataset: {names}")
        name = next(iter(config.datasets))
    if name not in config.datasets:
        raise UnknownDatasetError(f"no dataset {name!r}; there is: {names}")
    return name, config.datasets[name]
