"""`owl-stream check`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from owl_stream.cli.options import (
    ConfigOption,
    DatasetOption,
    IndexOption,
    JsonOption,
    LayoutOption,
    ModelOption,
    ProcessesOption,
    ShardsOption,
    TokenizerOption,
    choose,
    settings,
)
from owl_stream.cli.terminal import Bar, emit, say

if TYPE_CHECKING:
    from owl_stream.cli.lint import Report
    from owl_stream.shards import Quarantined

_WHAT_HAPPENS = {"finding": "unusable shard", "indexing": "quarantined", "assembly": "masked"}


def check(
    config: ConfigOption = None,
    shards: ShardsOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    dataset: DatasetOption = None,
    index_dir: IndexOption = None,
    processes: ProcessesOption = None,
    decode: Annotated[
        bool, typer.Option(help="Decode every image too; without, only what indexing finds is found.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Find every bad sample without training: what would be quarantined, and what would be masked.

    Each is listed with shard, key, member, byte offset in the shard, and reason; then come histograms of text tokens,
    supervised tokens, vision tokens and units (what the vision tower takes at a time) per sample. Pictures that are
    sent although their decoder warns are listed as suspicious, and what is worth telling about good samples is counted:
    neither is bad. Exit code 0: all is good.
    1: something bad was found. 2: a wrong call.
    """
    from owl_stream.cli.lint import lint  # noqa: PLC0415 # see serve
    from owl_stream.engine.cores import usable_cores  # noqa: PLC0415

    # A decoder that crashes is a finding, told below; the engine's own words about it would come between.
    logging.getLogger("owl_stream.engine").setLevel(logging.ERROR)
    wanted = settings(config, shards, model, tokenizer, layout)
    names = [choose(wanted, dataset)[0]] if dataset is not None else list(wanted.datasets)
    reports = []
    for name in names:
        with Bar() as bar:
            report = lint(name, wanted, index_dir, processes or usable_cores(), decode=decode, bar=bar)
        reports.append(report)
        if not as_json:
            _print(report)
    clean = not any(report.findings for report in reports)
    if as_json:
        emit({"clean": clean, "datasets": {report.dataset: report.describe() for report in reports}})
    if not clean:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    from owl_stream.cli.notes import note_lines  # noqa: PLC0415 # see serve

    for finding in report.findings:
        say(_line(finding.bad, _WHAT_HAPPENS[finding.stage]))
    for picture in report.suspicious:
        say(_line(picture, "suspicious"))
    reasons = ", ".join(f"{count} x {reason}" for reason, count in report.reasons.items())
    found = f"{len(report.findings)} bad: {reasons}" if report.findings else "nothing bad"
    if report.suspicious:
        found += f", {len(report.suspicious)} suspicious"
    say(
        f"{report.dataset}: {report.shards} shards, {report.samples} samples indexed, {report.decoded} decoded, {found}"
    )
    for line in note_lines(report.notes):
        say(line)
    if report.samples:
        for name, distribution in (
            ("text tokens", report.text_tokens),
            ("supervised tokens", report.supervised_tokens),
            ("vision tokens", report.vision_tokens),
            ("units", report.units),
        ):
            for line in distribution.lines(name):
                say(line)


def _line(found: Quarantined, what_happens: str) -> str:
    place = " ".join(part for part in (found.shard, found.key, found.member) if part)
    return f"{place} @ {found.offset}: {found.detail} [{found.reason}, {what_happens}]"
