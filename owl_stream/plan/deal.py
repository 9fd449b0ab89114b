"""Dealing one global step to ranks: who gets which rows, in micro-batches whose lengths and costs agree."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import RequestError
from owl_stream.plan.ranks import check_deal, check_rank
from owl_stream.plan.search import Hand, Weights, search
from owl_stream.shards import Costs

FILLER = -1
"""Stands in a micro-batch where no row of the step does."""


@dataclass(frozen=True, eq=False)
class Dealt:
    """A global step dealt to W ranks as M micro-batches of m rows each.

    `rows`: int64 [W, M, m], positions in GlobalStep.ids, ascending (longest first), fillers (-1) last. A rank's
    micro-batches come dearest first, so that the ranks, which wait for each other at every one, wait little.
    `micro_costs`: int64 [W, M]; `rank_costs`: int64 [W], their sums. `padded_tokens`: of the whole step.
    """

    rows: NDArray[np.int64]
    micro_costs: NDArray[np.int64]
    rank_costs: NDArray[np.int64]
    padded_tokens: int

    def micro_batch(self, rank: int, micro: int) -> NDArray[np.int64]:
        """Row positions of one micro-batch, int64 [m]; -1 = filler.

        Raises:
            RequestError: there is no such rank or micro-batch.
        """
        check_rank(rank, self.rows.shape[0])
        if not 0 <= micro < self.rows.shape[1]:
            raise RequestError(f"micro {micro}: expected 0 to {self.rows.shape[1] - 1}, the micro-batches of a step")
        view: NDArray[np.int64] = self.rows[rank, micro]
        return view


def deal(costs: Costs, global_batch_size: int, world_size: int, micro_batch_size: int, weights: Weights) -> Dealt:
    """Deal rows that come longest first. Minimises the dearest rank's cost, then the total padding, by bounded search.

    Every micro-batch gets a row of the step while there are enough; else it is weighed as what will be repeated there,
    the step's first row.

    Raises:
        RequestError: world_size * micro_batch_size does not divide global_batch_size.
    """
    micros = check_deal(global_batch_size, world_size, micro_batch_size)
    batches = world_size * micros
    good = len(costs)
    repeats, fillers = max(batches - good, 0), global_batch_size - max(good, batches)
    text, vision = costs.text_tokens, costs.vision_tokens
    lengths = np.concatenate([text, np.repeat(text[:1], repeats), np.ones(fillers, np.int64)])
    vision = np.concatenate([vision, np.repeat(vision[:1], repeats), np.zeros(fillers, np.int64)])
    hand = Hand(lengths, vision, len(lengths) - fillers, world_size, weights)
    if batches == 1:
        return _dealt(hand, np.arange(len(lengths))[None], good)  # there is nothing to choose
    shares = _shares(good + repeats, batches, micro_batch_size)
    balanced, tight = _layered(hand, shares, micro_batch_size), _consecutive(hand, shares, micro_batch_size)
    return _dealt(hand, search(hand, balanced, tight), good)


def _shares(good: int, batches: int, micro_batch_size: int) -> NDArray[np.int64]:
    """Good rows of each micro-batch, longest rows first: full ones while each later one still gets a row."""
    spare = good - batches - np.arange(batches, dtype=np.int64) * (micro_batch_size - 1)
    return 1 + np.clip(spare, 0, micro_batch_size - 1)


def _consecutive(hand: Hand, shares: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Rows by length into micro-batches, the least padding there is; then those to ranks, dearest first."""
    groups = _completed(np.split(np.arange(hand.good), np.cumsum(shares)[:-1]), hand, width)
    costs = hand.group_costs(groups)
    micros = len(groups) // hand.world_size
    taken: list[list[int]] = [[] for _ in range(hand.world_size)]
    ranks = [(0, rank) for rank in range(hand.world_size)]
    for group in np.argsort(-costs, kind="stable").tolist():
        cost, rank = heapq.heappop(ranks)
        taken[rank].append(group)
        if len(taken[rank]) < micros:
            heapq.heappush(ranks, (cost + int(costs[group]), rank))
    ordered: NDArray[np.int64] = groups[np.array(taken).ravel()]
    return ordered


def _layered(hand: Hand, shares: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Layer k is the k-th longest W * m rows; each rank gets a micro-batch of it, rows with many vision tokens to those
    that have least.
    """
    layers = np.split(np.arange(hand.good), np.cumsum(shares)[hand.world_size - 1 : -1 : hand.world_size])
    loads = [0] * hand.world_size
    groups: list[list[list[int]]] = [[] for _ in range(hand.world_size)]
    for layer, rows in enumerate(layers):
        capacity = shares[layer * hand.world_size : (layer + 1) * hand.world_size].tolist()
        # The rank that is poorest so far may take the largest share.
        poorest = sorted(range(hand.world_size), key=lambda rank: (loads[rank], rank))
        room = dict(zip(poorest, capacity, strict=True))
        ranks = [(loads[rank], rank) for rank in poorest]
        mine: list[list[int]] = [[] for _ in range(hand.world_size)]
        for row in rows[np.argsort(-hand.vision[rows], kind="stable")].tolist():
            load, rank = heapq.heappop(ranks)
            mine[rank].append(row)
            if len(mine[rank]) < room[rank]:
                heapq.heappush(ranks, (load + int(hand.vision[row]) * hand.weights.vision_token, rank))
        for rank, members in enumerate(mine):
            padded, vision = int(hand.lengths[members].max()) * width, int(hand.vision[members].sum())
            loads[rank] += padded * hand.weights.text_token + vision * hand.weights.vision_token
            groups[rank].append(members)
    return _completed([np.array(members) for rank in groups for members in rank], hand, width)


def _completed(groups: list[NDArray[np.int64]], hand: Hand, width: int) -> NDArray[np.int64]:
    """Lay the groups into [groups, width] and the fillers into what is left."""
    table = np.full((len(groups), width), FILLER, dtype=np.int64)
    for group, rows in enumerate(groups):
        table[group, : len(rows)] = rows
    table[table == FILLER] = np.arange(hand.good, len(hand.lengths))
    return table


def _dealt(hand: Hand, groups: NDArray[np.int64], good: int) -> Dealt:
    costs = hand.group_costs(groups).reshape(hand.world_size, -1)
    rows = np.sort(groups, axis=1).reshape(*costs.shape, -1)
    dearest = np.argsort(-costs, axis=1, kind="stable")
    costs = np.take_along_axis(costs, dearest, axis=1)
    rows = np.take_along_axis(rows, dearest[:, :, None], axis=1)
    rows[rows >= good] = FILLER
    for column in (rows, costs):
        column.flags.writeable = False
    return Dealt(rows, costs, costs.sum(axis=1), int(hand.padded(groups).sum()))
