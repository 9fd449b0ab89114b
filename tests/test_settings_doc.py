"""docs/settings.md lists every setting with its default and its meaning, as the models have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from owl_stream.config import AccessConfig, CacheConfig, DatasetConfig, ServerConfig, TlsConfig

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "settings.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "server": ServerConfig,
    "server.access": AccessConfig,
    "server.tls": TlsConfig,
    "server.cache": CacheConfig,
    "datasets.NAME": DatasetConfig,
}


def row(name: str, field: FieldInfo) -> str:
    """How a setting stands in the table."""
    if field.is_required():
        default = "required"
    elif field.default_factory is not None or field.default is None:
        default = "none"
    else:
        default = f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    meaning = f"{', '.join(f'`{choice}`' for choice in choices)}; {field.description}" if choices else field.description
    return f"| `{name}` | {default} | {meaning} |"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_listed_as_it_is(section: str) -> None:
    """Name, default and meaning of each, in order, and no others; sections have tables of their own."""
    found = re.search(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, f"docs/settings.md has no section {section}"
    rows = re.findall(r"^\| `.*$", found[1], re.MULTILINE)
    own = SECTIONS[section].model_fields
    assert rows == [row(name, field) for name, field in own.items() if f"{section}.{name}" not in SECTIONS]
