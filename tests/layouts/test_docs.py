"""What docs/layouts.md shows, run."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "layouts.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_of_the_page_run(snippet: str) -> None:
    """Each block of Python stands on its own and holds its own assertions."""
    exec(compile(snippet, "docs/layouts.md", "exec"), {})


def test_the_page_has_a_snippet() -> None:
    """A page that lost its example would pass the test above by having nothing to run."""
    assert len(SNIPPETS) >= 1
