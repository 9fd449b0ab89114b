"""`owl-stream doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from owl_stream.cli.options import DatasetOption, JsonOption
from owl_stream.cli.peer import CaOption, TokenOption
from owl_stream.cli.terminal import emit, say
from owl_stream.errors import ConfigError


def doctor(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The server, as the trainer is given it: http://host:port.")
    ],
    dataset: DatasetOption = None,
    state: Annotated[
        Path | None, typer.Option(help="A checkpoint that would be resumed from, with the state of the data in it.")
    ] = None,
    world_size: Annotated[
        int | None, typer.Option("--world-size", "-w", help="Data-parallel ranks; default: WORLD_SIZE, else 1.")
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option("--micro-batch-size", "-m", help="Rows a batch; default: a rank's whole share.")
    ] = None,
    needs: Annotated[
        float | None, typer.Option(min=0.1, metavar="SAMPLES/S", help="What your accelerators could take a second.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to read batches, in seconds; 0: none.")] = 7.0,
    token: TokenOption = None,
    ca: CaOption = None,
    cert: Annotated[Path | None, typer.Option(help="Our certificate (PEM), for servers that ask for one.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run it on the trainer's host: what is wrong between it and the server, and what would mend that.

    It looks at proxies, the port, TLS, the token, versions, clocks, the dataset, how a step is divided, a checkpoint's
    state, shared memory and the speed of the link. Nothing of the server changes. Exit code 0: nothing to mend. 1: a
    fault was found. 2: a wrong call. Where only the client is installed: `python -m owl_client.doctor`.
    """
    try:
        from owl_client.connection import Tls, Token, check_url  # noqa: PLC0415 # loads torch
        from owl_client.doctor import Case, examine  # noqa: PLC0415
        from owl_client.doctor.report import lines, summary  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"doctor: expected what a trainer has, got no module {exc.name}; run it on the trainer's host, or "
            f"install owl-stream[client]"
        ) from exc

    case = Case(
        check_url(url),
        dataset,
        Token.find(token),
        Tls(ca, cert, key),
        state,
        world_size,
        micro_batch_size,
        needs,
        seconds,
    )
    findings = []
    for finding in examine(case):
        findings.append(finding)
        if not as_json:
            for line in lines(finding):
                say(line)
    if as_json:
        emit({"url": case.url, "findings": [asdict(finding) for finding in findings]})
    else:
        say(summary(findings))
    if any(finding.verdict == "fault" for finding in findings):
        raise typer.Exit(1)
