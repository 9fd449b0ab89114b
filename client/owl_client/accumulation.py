"""Trainers that call `backward` divide the loss by the batches they accumulate: each of them has its own way."""

from __future__ import annotations

from typing import Any

from owl_stream.errors import ConfigError


def divisor_of(trainer: Any, micros_per_step: int, *, ends_step: bool) -> int:
    """By what `trainer` divides a loss before `backward`; 1 where there is none.

    Told apart by their attributes, for importing a trainer's library only to ask would take seconds. `ends_step`:
    whether this batch is the last of a global step.

    Raises:
        ConfigError: it accumulates over another number of batches than a global step has, steps elsewhere, or is
            unknown.
    """
    if trainer is None:
        return 1
    if hasattr(trainer, "accumulate_grad_batches"):
        return _lightning_divisor(trainer, micros_per_step)
    steps = getattr(trainer, "gradient_accumulation_steps", None)
    if steps is None:
        raise ConfigError(
            f"step_loss: expected an Accelerator, a DeepSpeed engine, a Lightning Trainer or nothing, got a "
            f"{type(trainer).__name__}; leave it out where loss.backward() is called on what step_loss returns"
        )
    if callable(steps):  # DeepSpeed's engine, which may leave it to the caller where a step ends
        counts = getattr(trainer, "managed_gradient_accumulation", lambda: True)
        steps, at_end = steps(), not counts() or trainer.is_gradient_accumulation_boundary()
    else:
        at_end = trainer.sync_gradients
    _check("gradient_accumulation_steps", steps, micros_per_step)
    if ends_step and not at_end:
        raise ConfigError(
            "expected the optimizer to step after this batch, the last of its global step, and the trainer goes on "
            "accumulating: it counts batches by itself, also those from before a checkpoint, when a step may have had "
            "another number of them; with Accelerate set accelerator.step = 0 after load_state"
        )
    return int(steps)


def _lightning_divisor(trainer: Any, micros_per_step: int) -> int:
    """Lightning divides before `backward`. Under DeepSpeed the engine then divides once more (Lightning 2.6)."""
    if not trainer.lightning_module.automatic_optimization:
        return 1
    steps = int(trainer.accumulate_grad_batches)
    _check("accumulate_grad_batches", steps, micros_per_step)
    return steps * steps if trainer.strategy.handles_gradient_accumulation else steps


def _check(name: str, got: Any, expected: int) -> None:
    if got != expected:
        raise ConfigError(
            f"expected {name}={expected}, the micro-batches that a rank gets of a global step, got {got}: steps would "
            f"be others than the plan's; set it to the dataset's micros_per_step"
        )
