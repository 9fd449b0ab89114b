"""`owl-stream bench`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from owl_stream.cli.meter import Measured, measure
from owl_stream.cli.options import DatasetOption, JsonOption
from owl_stream.cli.peer import CaOption, Peer, TokenOption
from owl_stream.cli.terminal import Bar, emit, say


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server: http://host:port.")],
    dataset: DatasetOption = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to read, in seconds.")] = 12.0,
    world_size: Annotated[int, typer.Option("--world-size", "-w", min=1, help="Ranks to read for, all at once.")] = 1,
    micro_batch_size: Annotated[
        int | None, typer.Option("--micro-batch-size", "-m", min=1, help="Rows a batch; default: a rank's whole share.")
    ] = None,
    needs: Annotated[
        float | None, typer.Option(min=0.1, metavar="SAMPLES/S", help="What your accelerators could take a second.")
    ] = None,
    token: TokenOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read from a server as fast as this machine can, and say how fast that was and which side is the slower one.

    MB are 10^6 bytes. The server says every 5 s what it waited for, so shorter runs cannot name the slower side.
    Nothing is trained and nothing of the server changes: its plan does not know who reads.
    """
    peer = Peer(url, token, ca)
    name = peer.choose(dataset)
    with Bar(f"reading {name}") as bar:
        measured = measure(
            peer,
            name,
            seconds,
            world_size,
            micro_batch_size,
            lambda done: bar.update(min(done, seconds), seconds, note=f"{done:.0f} of {seconds:g} s"),
        )
    if as_json:
        emit(_describe(url, name, measured, needs))
    else:
        _print(name, measured, needs)


def _describe(url: str, name: str, measured: Measured, needs: float | None) -> dict[str, Any]:
    return {
        "url": url,
        "dataset": name,
        "seconds": round(measured.seconds, 3),
        "world_size": measured.world_size,
        "batches": measured.batches,
        "samples": measured.samples,
        "mb_per_s": round(measured.mb_per_s, 3),
        "samples_per_s": round(measured.samples_per_s, 3),
        "units_per_s": round(measured.units_per_s, 3),
        "slower": measured.slower,
        "advice": measured.advice(needs),
        "server": measured.server,
    }


def _print(name: str, measured: Measured, needs: float | None) -> None:
    say(
        f"{name}: {measured.mb_per_s:.1f} MB/s, {measured.samples_per_s:.1f} samples/s, "
        f"{measured.units_per_s:.1f} units/s ({measured.batches} batches in {measured.seconds:.1f} s, "
        f"{measured.world_size} stream{'s' * (measured.world_size > 1)})"
    )
    say(f"slower side: {measured.slower}")
    say(measured.advice(needs))
