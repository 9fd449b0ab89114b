"""The demo's main job: data in, a training run through a server that is killed on the way, and a table of what held."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from owl_stream.demo.dataset import GLOBAL_BATCH_SIZE, build_demo_dataset, read_places
from owl_stream.demo.ledger import Ledger
from owl_stream.demo.promises import Run, first_and_last, judge
from owl_stream.demo.server import DemoServer
from owl_stream.demo.training import EPOCHS, Trainer, batches, open_stream
from owl_stream.errors import OwlStreamError
from owl_stream.inert import inert


def run_demo(directory: Path | None, console: Console) -> bool:
    """Run the whole job below `directory`, print what happened, and say whether every promise held.

    Without a directory everything goes to a temporary one that is removed at the end.

    Raises:
        OwlStreamError: the data could not be built or indexed, or the server did not start.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="owl-stream-demo-") as temporary:
            return _run(Path(temporary), console)
    return _run(directory, console)


def _run(directory: Path, console: Console) -> bool:
    started = time.monotonic()
    config = _build(directory, console)
    _index(config, console)
    with DemoServer(config) as server:
        undisturbed = _follow(server, console, "undisturbed run")
        trained = _follow(server, console, "training run", Trainer())
    _print_table(console, undisturbed, trained)
    promises = judge(read_places(directory), EPOCHS, undisturbed, trained)
    for promise in promises:
        console.print(f"{'[green]held[/]  ' if promise.held else '[red]BROKEN[/]'} {escape(inert(promise.text))}")
    console.print(f"{time.monotonic() - started:.0f} s in all")
    return all(promise.held for promise in promises)


def _build(directory: Path, console: Console) -> Path:
    with _progress(console, "building the data set") as advance:
        return build_demo_dataset(directory, advance)


def _index(config: Path, console: Console) -> None:
    console.print("indexing")
    command = [sys.executable, "-m", "owl_stream.cli", "index", "--config", str(config)]
    if subprocess.run(command, env=dict(os.environ), check=False).returncode:
        raise OwlStreamError(f"{config}: indexing failed; its own message is above")


def _follow(server: DemoServer, console: Console, name: str, trainer: Trainer | None = None) -> Run:
    """Read all epochs; with a trainer, train, and halfway kill the server and start it again."""
    ledger, started = Ledger(), time.monotonic()
    with open_stream(server.url) as dataset, _progress(console, name) as advance:
        total = EPOCHS * len(dataset)
        for number, batch in enumerate(batches(dataset)):
            if trainer is not None:
                if number == total // 2 + len(dataset) // 2:
                    console.print(f"  SIGKILL to the server at micro-batch {number} of {total}, then a new one")
                    server.kill()
                    server.start()
                trainer.learn(batch)
            ledger.write(batch, batch.meta)
            advance(number + 1, total)
        reconnects = dataset.stats().reconnects
    return Run(ledger, time.monotonic() - started, reconnects, trainer.losses if trainer is not None else ())


def _print_table(console: Console, undisturbed: Run, trained: Run) -> None:
    ledger, (first, last) = trained.ledger, first_and_last(trained.losses)
    table = Table(
        "", "trained, server killed", "only read", title=f"{EPOCHS} epochs in global steps of {GLOBAL_BATCH_SIZE}"
    )

    lines: dict[str, Callable[[Run], object]] = {
        "rows delivered": lambda run: run.ledger.statuses["ok"],
        "rows skipped (masked)": lambda run: run.ledger.statuses["masked"],
        "rows repeated": lambda run: run.ledger.statuses["repeated"],
        "rows of filler": lambda run: run.ledger.statuses["filler"],
        "reconnects": lambda run: run.reconnects,
        "order hash": lambda run: run.ledger.order_hash,
        "padding efficiency": lambda run: f"{run.ledger.padding_efficiency:.1%}",
        "samples/s": lambda run: f"{run.samples_per_second:.0f}",
    }
    for name, value in lines.items():
        table.add_row(name, str(value(trained)), str(value(undisturbed)))
    table.add_row("first loss", f"{first:.3f}", "-")
    table.add_row("last loss", f"{last:.3f}", "-")
    console.print(table)
    for skipped in sorted(ledger.skipped, key=lambda s: (s.shard, s.key)):
        console.print(escape(inert(f"skipped: {skipped.reason}")))


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar; what it yields is called with (done, total)."""
    columns = (TextColumn(f"{name:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
