"""`owl-stream fit-cost`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeGuard

import typer

from owl_stream.cli.options import JsonOption
from owl_stream.cli.terminal import emit, say
from owl_stream.errors import DataError, UsageError
from owl_stream.plan import CostFit, StepTime, fit_costs


def fit_cost(
    times: Annotated[list[Path], typer.Argument(metavar="TIMES...", help="Files that `owl_client.StepTimes` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Find what a text token and a vision token cost your trainer, for `text_token_cost` and `vision_token_cost`.

    With these weights dealing gives the ranks of a step equal seconds, where the defaults give them equal tokens. They
    are part of the fingerprint: set them before a run, not in the middle of one.
    """
    found = [time for path in times for time in read_times(path)]
    fit = fit_costs(found)
    if as_json:
        emit(
            {
                "batches": len(found),
                **vars(fit),
                "text_token_cost": fit.text_token_cost,
                "vision_token_cost": fit.vision_token_cost,
            }
        )
    else:
        _print(len(found), fit)


def read_times(path: Path) -> Iterator[StepTime]:
    """Every batch of a file of JSON lines.

    Raises:
        UsageError: there is no such file.
        DataError: a line is not what `StepTimes` writes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        got = exc.strerror if isinstance(exc, OSError) else "no text"
        raise UsageError(f"{path}: expected a file that owl_client.StepTimes wrote, got: {got}") from exc
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _read(line, f"{path}:{number}")


def _read(line: str, place: str) -> StepTime:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    fields = record if isinstance(record, dict) else {}
    text, vision, seconds = (fields.get(name) for name in ("text_tokens", "vision_tokens", "seconds"))
    if not (_is_count(text) and _is_count(vision) and _is_time(seconds)):
        raise DataError(
            f'{place}: expected {{"text_tokens": n, "vision_tokens": n, "seconds": s}} with numbers from 0 and a time '
            f"above 0, got {line[:80]!r}; take out lines that owl_client.StepTimes did not write"
        )
    return StepTime(text, vision, float(seconds))


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 53


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def _print(batches: int, fit: CostFit) -> None:
    say(
        f"{batches} batches: {fit.fixed_s * 1e3:.3g} ms each, and {fit.text_s * 1e6:.3g} us a padded text token, "
        f"{fit.vision_s * 1e6:.3g} us a vision token"
    )
    say(f"off by {fit.error:.1%} in the median; with equal weights by {fit.even_error:.1%}")
    say("in the data set's part of owl-stream.yaml, before a run begins:")
    say(f"    text_token_cost: {fit.text_token_cost}")
    say(f"    vision_token_cost: {fit.vision_token_cost}")
