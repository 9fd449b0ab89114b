"""Images a second, end to end, beside what people use, the same loader with our kernels, and decoding alone.

Server, workers and client share the machine's cores with nothing but each other; so do the others' processes.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.contender import Contender
from benchmarks.environments import installed_version, python_of
from benchmarks.peers import usable_peers
from benchmarks.report import Line
from benchmarks.rounds import Rounds, ratio, take_turns
from benchmarks.workload import Kind, Workload

WARM: dict[Kind, int] = {"plain": 768, "cut": 128, "native": 640}
"""Images read before a turn counts: more than may have waited in queues since the last one."""
FLOORS: dict[Kind, dict[str, float]] = {
    "plain": {"usual": 2.7, "equal": 1.3},
    "cut": {"usual": 3.0, "equal": 1.0},
    "native": {"processor": 3.2},
}
CEILING_FLOORS: dict[Kind, float] = {"plain": 0.82, "cut": 0.70, "native": 0.80}
NUMBERS: dict[Kind, str] = {"plain": "1", "cut": "2", "native": "8"}
COST: dict[Kind, float] = {"plain": 1.0, "cut": 4.0, "native": 0.7}
"""About what an image takes, in those of `plain`."""
WORDS = {
    "processor": "a DataLoader with 2 workers that calls the model's processor",
    "usual": "the usual loader (webdataset, DataLoader, 2 workers, Pillow, float32)",
    "equal": "the same loader with our kernels and uint8",
}


def measure(workload: Workload, *, rounds: int, seconds: float, peers: bool) -> tuple[list[Line], dict[str, Any]]:
    """All contenders of one workload. `seconds` is about what one turn of ours takes."""
    images = {name: count for name, count in _images(workload, seconds).items() if name != "socket"}
    contenders = {name: Contender(name, workload) for name in images}
    found, missing = usable_peers() if peers else ([], {})
    for name in found:
        contenders[name] = Contender(name, workload, python_of(name))
        images[name] = images["usual"]
    turns = take_turns(contenders, images, WARM[workload.kind], rounds)
    lines = [
        Line(
            NUMBERS[workload.kind],
            f"`{workload.kind}`, end to end / {WORDS[other]}",
            ratio(turns, "service", other),
            at_least=floor,
        )
        for other, floor in FLOORS[workload.kind].items()
    ]
    if workload.kind == "plain":
        cheaper = ratio(turns, "usual", "service", lambda turn: turn.host_cpu_s / turn.images)
        lines.append(Line("4", "training host's CPU per image: usual loader / ours", cheaper, at_least=8.0))
    report: dict[str, Any] = {"contenders": table(turns), "not_measured": missing}
    report["versions"] = {name: installed_version(name) for name in found}
    report["ratios"] = {name: vars(ratio(turns, "service", name)) for name in turns if name != "service"}
    return lines, report


def measure_ceiling(workload: Workload, *, rounds: int, seconds: float) -> tuple[list[Line], dict[str, Any]]:
    """The service and bare decoding alone, in many rounds: what lies between them is less than a turn's noise.

    `socket` is the service as a trainer on another machine has it, but for the network.
    """
    all_images = _images(workload, seconds)
    images = {name: all_images[name] for name in ("ceiling", "service", "socket")}
    turns = take_turns({name: Contender(name, workload) for name in images}, images, WARM[workload.kind], rounds)
    close, floor = ratio(turns, "service", "ceiling"), CEILING_FLOORS[workload.kind]
    line = Line(NUMBERS[workload.kind], f"`{workload.kind}`, end to end / the decode ceiling", close, at_least=floor)
    work = {name: ratio(turns, "ceiling", name, lambda turn: turn.cpu_s / turn.images) for name in images}
    return [line], {
        "contenders": table(turns),
        "ratios": {name: vars(ratio(turns, name, "ceiling")) for name in images},
        "ratios_of_cpu": {name: vars(each) for name, each in work.items()},
    }


def _images(workload: Workload, seconds: float) -> dict[str, int]:
    """How many of them a turn reads: what each takes about as long for."""
    per_s = {
        "kernels": 600,
        "ceiling": 550,
        "service": 420,
        "socket": 420,
        "finished": 250,
        "tokenising": 420,
        "equal": 300,
        "usual": 150,
        "processor": 150,
    }
    of_kind = ["processor", "finished"] if workload.kind == "native" else ["tokenising", "equal", "usual"]
    names = ["kernels", "ceiling", "service", "socket", *of_kind]
    return {name: int(per_s[name] * seconds / COST[workload.kind]) for name in names}


def table(turns: Rounds) -> dict[str, dict[str, float]]:
    """Medians by contender, and the spread of the rate."""
    rows = {}
    for name, taken in turns.items():
        rates = [turn.rate for turn in taken]
        rows[name] = {
            "images_per_s": statistics.median(rates),
            "least": min(rates),
            "greatest": max(rates),
            "cpu_ms_per_image": 1e3 * statistics.median(turn.cpu_s / turn.images for turn in taken),
            "host_cpu_ms_per_image": 1e3 * statistics.median(turn.host_cpu_s / turn.images for turn in taken),
            "kb_per_image": statistics.median(turn.nbytes / turn.images for turn in taken) / 1e3,
        }
    return rows
