"""`owl-stream pack`."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from owl_stream.cli.notes import note_lines
from owl_stream.cli.options import JsonOption
from owl_stream.cli.terminal import Bar, binary, emit, say
from owl_stream.errors import ConfigError

if TYPE_CHECKING:
    from owl_stream.pack import Packed, PackProgress

SHOWN = 20
FORMATS = ("auto", "llava", "sharegpt", "swift", "folder")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB|)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def pack(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Files of records (JSON or JSON Lines), or folders of images."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the shards.")],
    name: Annotated[str, typer.Option(help="Shards are called NAME-000000.tar and so on.")] = "train",
    fmt: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="auto, llava, sharegpt, swift (ms-swift) or folder (images with captions).",
            autocompletion=lambda: list(FORMATS),
        ),
    ] = "auto",
    images: Annotated[
        Path | None, typer.Option(help="Directory that image names start from; default: that of the input.")
    ] = None,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Let names (../x, /x, links) lead out of that directory.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="What a captioned image is asked; default: nothing but the image.")] = "",
    shard_size: Annotated[str, typer.Option(help="Largest shard: 500MB, 1GiB, or bytes.")] = "512MiB",
    shard_samples: Annotated[int, typer.Option(min=1, help="Most samples of a shard.")] = 10_000,
    on_bad: Annotated[
        str,
        typer.Option(
            help="What a bad input does: skip (listed and left out) or fail.", autocompletion=lambda: ["skip", "fail"]
        ),
    ] = "skip",
    on_unknown_field: Annotated[
        str,
        typer.Option(
            help="What a field does that has no meaning here: count (told at the end) or refuse its record.",
            autocompletion=lambda: ["count", "refuse"],
        ),
    ] = "count",
    force: Annotated[
        bool, typer.Option("--force", help="Start anew: remove the shards that an earlier run wrote under this name.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an earlier run; an error if there is none to go on with.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Shards written at a time; default: one per core.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn LLaVA, ShareGPT or ms-swift records, or folders of images with captions, into shards to train from.

    Killed and started again with the same arguments it goes on; the shards have the same bytes as if it had never
    stopped. Where other arguments have written shards it refuses to mix them; --force starts anew. Bad inputs (no such
    image, a name that leaves its directory, a malformed record) are counted and listed with their places in
    NAME.bad.jsonl beside the shards; NAME.manifest.json lists the shards. Exit code 0 even so.
    """
    from owl_stream.engine.cores import usable_cores  # noqa: PLC0415 # see serve
    from owl_stream.pack import PackSettings  # noqa: PLC0415
    from owl_stream.pack import pack as run  # noqa: PLC0415

    settings = PackSettings(
        inputs=tuple(inputs),
        out=out,
        name=_name(name),
        format=_one_of("--format", fmt, FORMATS),
        images=images,
        allow_outside=allow_outside,
        prompt=prompt,
        shard_bytes=_nbytes(shard_size),
        shard_samples=shard_samples,
        on_bad=_on_bad(on_bad),
        on_unknown_field=_on_unknown_field(on_unknown_field),
        begin=_begin(force, resume),
    )
    began = time.monotonic()
    with Bar("packing") as bar:
        packed = run(settings, workers or usable_cores(), lambda done: _follow(bar, done))
    if as_json:
        emit(_describe(packed))
    else:
        _print(packed, settings.out / settings.name, time.monotonic() - began)


def _follow(bar: Bar, done: PackProgress) -> None:
    bar.update(done.share, 1, note=f"{done.samples} samples, {done.shards} shards")


def _describe(packed: Packed) -> dict[str, object]:
    return {
        "shards": [asdict(shard) for shard in packed.shards],
        "samples": packed.samples,
        "nbytes": packed.nbytes,
        "kept": packed.kept,
        "bad": [bad.describe() for bad in packed.bad],
        "reasons": dict(Counter(bad.reason for bad in packed.bad).most_common()),
        "notes": dict(packed.notes),
        "manifest": str(packed.manifest),
        "bad_list": str(packed.bad_list),
    }


def _print(packed: Packed, prefix: Path, seconds: float) -> None:
    for bad in packed.bad[:SHOWN]:
        say(f"left out: {bad.origin}: {bad.detail} [{bad.reason}]", err=True)
    if len(packed.bad) > SHOWN:
        say(f"and {len(packed.bad) - SHOWN} more, all in {packed.bad_list}", err=True)
    kept = f" ({packed.kept} of them kept from an earlier run)" if packed.kept else ""
    say(
        f"{len(packed.shards)} shards{kept}, {packed.samples} samples, {binary(packed.nbytes)} in {seconds:.1f} s, "
        f"{len(packed.bad)} bad inputs left out"
    )
    for line in note_lines(packed.notes):
        say(line)
    say(f"next: owl-stream check --shards '{prefix}-*.tar' --tokenizer tokenizer.json")


def _nbytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    nbytes = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if nbytes < 1:
        raise ConfigError(f"--shard-size: expected a size such as 512MiB or 1GB, got {text!r}")
    return nbytes


def _name(name: str) -> str:
    if not re.fullmatch(r"[\w][\w.-]*", name, re.ASCII):
        raise ConfigError(f"--name: expected letters, digits, `_`, `-` and `.`, got {name!r}")
    return name


def _one_of(option: str, value: str, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise ConfigError(f"{option}: expected {', '.join(valid)}, got {value!r}")
    return value


def _on_unknown_field(value: str) -> Literal["count", "refuse"]:
    return "refuse" if _one_of("--on-unknown-field", value, ("count", "refuse")) == "refuse" else "count"


def _begin(force: bool, resume: bool) -> Literal["auto", "resume", "force"]:
    if force and resume:
        raise ConfigError("--force starts anew and --resume goes on: give one of them, or neither")
    return "force" if force else "resume" if resume else "auto"


def _on_bad(value: str) -> Literal["skip", "fail"]:
    return "fail" if _one_of("--on-bad", value, ("skip", "fail")) == "fail" else "skip"
