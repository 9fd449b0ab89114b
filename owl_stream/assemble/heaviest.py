"""The dearest micro-batch of an epoch: what a trainer's memory must hold, known before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owl_stream.assemble.job import FILLER_SIZE
from owl_stream.assemble.payload import lay_out_payload
from owl_stream.layouts import Layout
from owl_stream.plan import Plan

MAX_STEPS = 256
"""Steps that are dealt to find it; epochs of more are sampled evenly, first and last step included."""


@dataclass(frozen=True)
class Heaviest:
    """A micro-batch of epoch 0 whose cost, as the plan weighs it, no other one exceeds.

    `padded_tokens`: rows times the longest row. `payload_bytes`: of its frame, without the header. `exact`: every
    step was looked at; otherwise `steps_seen` of them, evenly spaced.
    """

    epoch: int
    step: int
    micro: int
    rank: int
    cost: int
    padded_tokens: int
    vision_tokens: int
    units: int
    payload_bytes: int
    exact: bool
    steps_seen: int


def find_heaviest(plan: Plan, layout: Layout, world_size: int, micro_batch_size: int) -> Heaviest:
    """Deal steps of epoch 0 and keep the dearest micro-batch; the first of several.

    Raises:
        RequestError: world_size * micro_batch_size does not divide the global batch size.
    """
    steps = plan.steps_per_epoch
    seen = sorted({int(step) for step in np.linspace(0, steps - 1, min(steps, MAX_STEPS)).round()})
    dearest, place = -1, (0, 0, 0)
    for step in seen:
        costs = plan.step(0, step).deal(world_size, micro_batch_size).micro_costs
        rank, micro = divmod(int(costs.argmax()), costs.shape[1])
        if costs[rank, micro] > dearest:
            dearest, place = int(costs[rank, micro]), (step, rank, micro)
    step, rank, micro = place
    planned = plan.step(0, step)
    rows = planned.deal(world_size, micro_batch_size).micro_batch(rank, micro)
    good = rows[rows >= 0]
    sizes = [*planned.costs[good].sizes(), *[FILLER_SIZE] * (len(rows) - len(good))]
    return Heaviest(
        epoch=0,
        step=step,
        micro=micro,
        rank=rank,
        cost=dearest,
        padded_tokens=max(size.text_tokens for size in sizes) * len(sizes),
        vision_tokens=sum(size.vision_tokens for size in sizes),
        units=sum(size.units for size in sizes),
        payload_bytes=lay_out_payload(layout, sizes)[1],
        exact=len(seen) == steps,
        steps_seen=len(seen),
    )
