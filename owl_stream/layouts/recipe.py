"""The recipe: frozen settings that turn a sample into a row, and the layout that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from owl_stream.config import MAX_IMAGE_BYTES, DatasetConfig
from owl_stream.errors import ConfigError
from owl_stream.layouts.held import check_labels, check_tensors
from owl_stream.layouts.own import NamedLayout, check_own, digest_source, named
from owl_stream.layouts.registry import LAYOUT_NAMES, get_layout, layout_of
from owl_stream.layouts.types import BatchReport, Choices, Layout, LengthLimit
from owl_stream.models import open_model

DEFAULT_LAYOUT = "owl3-240728"
"""Of a dataset that names neither a layout nor a model."""


@dataclass(frozen=True)
class Recipe:
    """What turns a sample into a row. Two datasets with equal recipes share a cost table.

    `settings` are the layout's own: a frozen dataclass of plain values. `tokenizer` is a path to a `tokenizers` file or
    a hub id; its *content*, not its name, enters any digest.
    """

    layout: str
    settings: object
    tokenizer: str
    resize: Literal["simd", "pillow"]
    max_length: int
    on_too_long: Literal["truncate", "skip"]
    max_image_pixels: int
    max_image_bytes: int = MAX_IMAGE_BYTES
    on_unknown_field: Literal["count", "refuse"] = "count"
    literal_markers: bool = False
    source: str = ""
    """Digest of the layout's source, where it is not one of ours: a change of it makes other batches."""

    @property
    def limit(self) -> LengthLimit:
        """How long a row may be."""
        return LengthLimit(self.max_length, self.on_too_long)

    def make_layout(self) -> Layout:
        """The layout with its settings.

        Raises:
            ConfigError: it is not one of ours, and cannot be made.
        """
        with named(self.layout, "__init__", own=bool(self.source)):
            made = get_layout(self.layout)(self.settings)
        return cast(Layout, NamedLayout(self.layout, made)) if self.source else made


def settle_recipe(config: DatasetConfig, base: Path = Path()) -> Recipe:
    """The recipe of a dataset: what it chooses, and else what its model's files say; their paths start at `base`.

    Raises:
        ConfigError: a choice that its layout does not offer, or files that are not there or lack something.
    """
    model = None if config.model is None else open_model(config.model, base)
    name = config.layout or (layout_of(model) if model is not None else DEFAULT_LAYOUT)
    tokenizer = config.tokenizer or config.model
    if tokenizer is None:
        raise ConfigError("`tokenizer` is missing: expected it, or a `model` that has one")
    choices = Choices(
        vision=config.vision,
        chat=config.chat,
        model=model,
        template=None if config.chat_template is None else _text(base / config.chat_template),
        train_on=config.train_on,
        positions=config.positions,
    )
    layout, own = get_layout(name), name not in LAYOUT_NAMES
    with named(name, "settle", own=own):
        settings = layout.settle(choices)
    if own:
        check_own(layout, settings)
    return Recipe(
        layout=name,
        settings=settings,
        tokenizer=tokenizer,
        resize=config.resize,
        max_length=config.max_length,
        on_too_long=config.on_too_long,
        max_image_pixels=config.max_image_pixels,
        max_image_bytes=config.max_image_bytes,
        on_unknown_field=config.on_unknown_field,
        literal_markers=config.literal_markers,
        source=digest_source(layout) if own else "",
    )


def check_batch(
    batch: Mapping[str, Any],
    *,
    model: str | None = None,
    layout: str | None = None,
    vision: Mapping[str, Any] | None = None,
    positions: str | None = None,
) -> BatchReport:
    """Hold a batch of anybody's against its model's contract, before the model misreads it.

    Args:
        batch: what the model is called with: CPU tensors of torch, or arrays; rows padded on the right.
        model: the model's directory or hub id; mPLUG-Owl3 needs none.
        layout: the layout's name, where the model does not settle it.
        vision: the layout's choices about pictures, as in a configuration.
        positions: which release's rule counts the batch's positions, `v5` or `v4`, where the layout has them.

    Raises:
        ContractError: naming row, position, expected and got.
        ConfigError: no such model or layout.
    """
    files = None if model is None else open_model(model, Path())
    chosen = get_layout(layout or (layout_of(files) if files is not None else DEFAULT_LAYOUT))
    made = chosen(chosen.settle(Choices(vision or {}, model=files, positions=positions)))
    check_tensors(batch, made.schema, getattr(made, "made_by_model", ()))
    report = made.check(batch)
    check_labels(batch)
    return report


def settle_all(configs: Mapping[str, DatasetConfig], origin: str, base: Path = Path()) -> None:
    """Refuse what no layout offers before anything is opened; `origin` names the configuration in errors.

    Raises:
        ConfigError: naming the dataset and the key.
    """
    for name, config in configs.items():
        try:
            settle_recipe(config, base)
        except ConfigError as exc:
            raise ConfigError(f"{origin}: datasets.{name}: {exc}") from exc


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"`chat_template`: {path}: expected a file of Jinja in UTF-8: {exc}") from exc
