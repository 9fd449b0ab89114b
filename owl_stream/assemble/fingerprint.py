"""Names for what must be equal: the sequence of global steps (`fingerprint`) and the pixels (`assembly`).

Neither ever holds a time, a path, a host or a world size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import xxhash

from owl_stream.assemble.tokenizer import TokenizerFile
from owl_stream.config import PlanSettings, Recipe
from owl_stream.plan import PLAN_VERSION

MEASURE_VERSION = 2
"""Raise it when a sample's text, tokens, crops or acceptance change, or the form in which rows are kept: all
is measured again."""

ASSEMBLY_VERSION = 1
"""Raise it when the pixels or texts of a frame change for equal samples and equal libraries."""


def digest(value: object) -> str:
    """xxh3-128 of a value's canonical JSON, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def cost_recipe_digest(recipe: Recipe, tokenizer: TokenizerFile) -> str:
    """What a cost table belongs to: all that decides a row's tokens and crops. `resize` changes neither."""
    return digest({**_costly(recipe), "tokenizer": tokenizer.digest, "version": MEASURE_VERSION})


def components(
    manifest_digest: str, cost_digest: str, tokenizer: TokenizerFile, recipe: Recipe, plan: PlanSettings
) -> dict[str, str]:
    """What a fingerprint is made of, by name, in hex: two that differ can say in what."""
    settings: dict[str, Any] = asdict(plan)
    seed = settings.pop("seed")
    return {
        "manifest": manifest_digest,
        "costs": cost_digest,
        "tokenizer": tokenizer.digest,
        "recipe": digest(_costly(recipe)),
        "seed": f"{seed:x}",
        "plan": digest({**settings, "version": PLAN_VERSION}),
    }


def fingerprint(parts: Mapping[str, str]) -> str:
    """The digest over all components."""
    return digest(dict(parts))


def assembly_id(recipe: Recipe) -> str:
    """Which decoders and which resizer make the pixels: servers of equal ids send equal bytes.

    The SIMD resizer computes in integers: its instruction set makes no difference.
    """
    libraries = ["Pillow", "simplejpeg"] + (["cykooz.resizer"] if recipe.resize == "simd" else [])
    return digest(
        {
            "version": ASSEMBLY_VERSION,
            "resize": recipe.resize,
            "libraries": {library: version(library) for library in libraries},
        }
    )


def _costly(recipe: Recipe) -> dict[str, Any]:
    """The recipe without its tokenizer's name, whose content counts, and without what changes pixels only.

    `chat: release` is left out: it is what every recipe was before there was a choice, and their fingerprints stay.
    """
    fields = asdict(recipe)
    left_out = ("tokenizer", "resize", "chat") if recipe.chat == "release" else ("tokenizer", "resize")
    return {name: fields[name] for name in fields if name not in left_out}
