"""Which samples make up which global step, and which rank gets which rows of it, as pure functions.

Never does I/O, never sees a byte of a sample, and never holds anything that grows with their number.
"""

from __future__ import annotations

from owl_stream.plan.cursor import check_cursor
from owl_stream.plan.deal import FILLER, Dealt
from owl_stream.plan.fit import CostFit, StepTime, fit_costs
from owl_stream.plan.plan import PLAN_VERSION, Plan
from owl_stream.plan.ranks import check_deal, check_rank, valid_micro_batch_sizes, valid_world_sizes
from owl_stream.plan.step import GlobalStep
from owl_stream.plan.table import Table

__all__ = [
    "FILLER",
    "PLAN_VERSION",
    "CostFit",
    "Dealt",
    "GlobalStep",
    "Plan",
    "StepTime",
    "Table",
    "check_cursor",
    "check_deal",
    "check_rank",
    "fit_costs",
    "valid_micro_batch_sizes",
    "valid_world_sizes",
]
