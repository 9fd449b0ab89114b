"""Imports point one way.

    inert <- errors <- machine <- blocking
    errors <- strict_yaml <- config
    errors <- models <- layouts
    blocking, config, wire, records, privacy <- shards <- plan, layouts <- assemble <- engine <- server <- cli

`pack` stands beside them: it writes what `shards` reads. `children` is for who starts processes.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT: dict[str, set[str]] = {"inert": set(), "errors": {"inert"}}
MAY_IMPORT["wire"] = MAY_IMPORT["machine"] = MAY_IMPORT["records"] = {"errors", "inert"}
MAY_IMPORT["blocking"] = {"machine", *MAY_IMPORT["machine"]}
MAY_IMPORT["strict_yaml"] = {"errors", "inert"}
MAY_IMPORT["config"] = {"strict_yaml", *MAY_IMPORT["strict_yaml"]}
MAY_IMPORT["privacy"], MAY_IMPORT["children"] = set(), set()
MAY_IMPORT["models"] = {"errors", "inert"}
MAY_IMPORT["shards"] = {"wire", "config", *MAY_IMPORT["config"], "records", "machine", "blocking", "privacy"}
MAY_IMPORT["plan"] = {"shards", *MAY_IMPORT["shards"]}
MAY_IMPORT["layouts"] = {"models", *MAY_IMPORT["plan"]}
MAY_IMPORT["assemble"] = {"plan", "layouts", *MAY_IMPORT["plan"]}
MAY_IMPORT["engine"] = {"assemble", *MAY_IMPORT["assemble"], "children"}
MAY_IMPORT["server"] = {"engine", *MAY_IMPORT["engine"]}
MAY_IMPORT["demo"] = {"server", *MAY_IMPORT["server"], "owl_client"}
MAY_IMPORT["pack"] = {"shards", "records", "config", "errors", "inert", "privacy"}
MAY_IMPORT["cli"] = {"demo", "pack", *MAY_IMPORT["demo"]}
MAY_IMPORT["owl_client"] = {"inert", "errors", "wire"}

FILES = [
    (path, path.relative_to(ROOT / "owl_stream").parts[0].removesuffix(".py"))
    for path in (ROOT / "owl_stream").rglob("*.py")
]
FILES += [(path, "owl_client") for path in (ROOT / "client" / "owl_client").rglob("*.py")]


def imported(path: Path) -> set[str]:
    """Our own packages that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which layer is meant"
            names.update([node.module or ""], [f"{node.module}.{alias.name}" for alias in node.names])
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    ours = {name.split(".")[1] for name in names if name.startswith("owl_stream.")}
    return ours & set(MAY_IMPORT) | ({"owl_client"} if any(n.split(".")[0] == "owl_client" for n in names) else set())


@pytest.mark.parametrize(("path", "layer"), FILES, ids=[str(path.relative_to(ROOT)) for path, _ in FILES])
def test_a_layer_imports_only_those_below_it(path: Path, layer: str) -> None:
    """No file reaches up, and the client touches only the wire format, the errors and their words."""
    assert imported(path) <= MAY_IMPORT.get(layer, set()) | {layer}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("owl_client", ["fastapi", "webdataset", "pydantic", "tokenizers"]),
        ("owl_stream.server", ["torch", "webdataset"]),
        ("owl_stream.engine.worker", ["torch", "webdataset", "fastapi"]),
        ("owl_stream.wire", ["torch", "yaml", "pydantic"]),
        ("owl_stream.cli", ["torch", "webdataset", "fastapi", "tokenizers"]),
    ],
)
def test_importing_a_part_does_not_load_what_it_must_not(module: str, unwanted: list[str]) -> None:
    """A trainer needs no web framework, a server no torch."""
    code = f"import sys, {module}; print([m for m in {unwanted!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"
