"""`python -m owl_client.doctor URL`, where nothing but the client is installed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from owl_client.connection import Tls, Token, check_url
from owl_client.doctor.examine import examine
from owl_client.doctor.finding import Case
from owl_client.doctor.report import lines, summary
from owl_stream.errors import OwlStreamError


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine, print, and return the exit code: 0 nothing to mend, 1 a fault was found, 2 a wrong call."""
    chosen = _parser().parse_args(arguments)
    try:
        case = Case(
            check_url(chosen.url),
            chosen.dataset,
            Token.find(chosen.token),
            Tls(chosen.ca, chosen.cert, chosen.key),
            chosen.state,
            chosen.world_size,
            chosen.micro_batch_size,
            chosen.needs,
            chosen.seconds,
        )
    except OwlStreamError as exc:
        print(f"owl-stream doctor: {exc}", file=sys.stderr)
        return 2
    try:
        return _told(case, as_json=chosen.json)
    except BrokenPipeError:  # whoever read the output has stopped, on purpose
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _told(case: Case, *, as_json: bool) -> int:
    findings = []
    for finding in examine(case):
        findings.append(finding)
        if not as_json:
            print(*lines(finding), sep="\n", flush=True)
    if as_json:
        print(json.dumps({"url": case.url, "findings": [asdict(finding) for finding in findings]}))
    else:
        print(summary(findings), flush=True)
    return int(any(finding.verdict == "fault" for finding in findings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="owl-stream doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("url", metavar="URL", help="the server, as the trainer is given it: http://host:port")
    parser.add_argument("--dataset", "-d", help="its name, where the server has several")
    parser.add_argument("--token", help="for servers that ask for one; else OWL_TOKEN")
    parser.add_argument("--ca", type=Path, help="certificate authority (PEM) to hold the server's certificate against")
    parser.add_argument("--cert", type=Path, help="our own certificate (PEM), for servers that ask for one")
    parser.add_argument("--key", type=Path, help="its key")
    parser.add_argument("--state", type=Path, help="a checkpoint that would be resumed from, with the data's state")
    parser.add_argument("--world-size", "-w", type=int, help="data-parallel ranks; else WORLD_SIZE, else 1")
    parser.add_argument("--micro-batch-size", "-m", type=int, help="rows a batch; else a rank's whole share")
    parser.add_argument("--needs", type=float, metavar="SAMPLES/S", help="what the accelerators could take a second")
    parser.add_argument("--seconds", type=float, default=7.0, help="how long to read batches; 0: none")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
