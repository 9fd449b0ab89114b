"""Names for what must be equal: the sequence of global steps (`fingerprint`) and the pixels (`assembly`).

Neither ever holds a time, a path, a host or a world size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from importlib.metadata import version
from typing import Any, cast

import xxhash

from owl_stream.assemble.cache import CacheSettings
from owl_stream.assemble.tokenizer import TokenizerFile
from owl_stream.config import PlanSettings
from owl_stream.layouts.recipe import Recipe
from owl_stream.plan import PLAN_VERSION
from owl_stream.shards import Shard

MEASURE_VERSION = 6
"""Raise it when a sample's text, tokens, units or acceptance change, or the form in which rows are kept: all
is measured again.

6: chat templates write tools, calls, results and thoughts, which were refused.
"""

ASSEMBLY_VERSION = 3
"""Raise it when the pixels or texts of a frame change for equal samples and equal libraries.

3: which samples are condemned, and the words for it, no longer depend on a server's settings.
"""


def digest(value: object) -> str:
    """xxh3-128 of a value's canonical JSON, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def cost_recipe_digest(recipe: Recipe, tokenizer: TokenizerFile) -> str:
    """What a cost table belongs to: all that decides a row's tokens and units. `resize` changes neither."""
    return digest({**_row_settings(recipe), "tokenizer": tokenizer.digest, "version": MEASURE_VERSION})


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
        "recipe": digest(_row_settings(recipe)),
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


def drawing_id(recipe: Recipe) -> str:
    """What draws pictures, a layout and its settings: the visuals of a sample and these give its pixels.

    Of a layout that is not ours the source counts too: a change of it may draw others.
    """
    parts = {"layout": recipe.layout, "settings": asdict(cast(Any, recipe.settings))}
    return digest({**parts, "source": recipe.source} if recipe.source else parts)


def frame_identity(
    fingerprint: str, assembly: str, on_bad_sample: str, shards: Sequence[Shard], cache: CacheSettings | None
) -> str:
    """What an engine may share frames and assemblers by: equal ones make equal frames, or fail alike, from equal files.

    A fingerprint alone is not enough: it leaves out what changes pixels only, what a bad sample does, and where shards
    lie, under which names.
    """
    files = [(shard.name, str(shard.path), shard.size, shard.mtime_ns) for shard in shards]
    kept = None if cache is None else (str(cache.directory), cache.max_bytes)
    return digest([fingerprint, assembly, on_bad_sample, files, kept])


def _row_settings(recipe: Recipe) -> dict[str, Any]:
    """What decides a row's tokens: the recipe without its tokenizer's name, whose content counts, and without `resize`.

    A setting that came later is left out at its default: what was the same before stays the same.
    """
    fields = asdict(recipe)
    later = {field.name for field in dataclass_fields(recipe) if fields[field.name] == field.default}
    return {name: fields[name] for name in fields if name not in ("tokenizer", "resize") and name not in later}
