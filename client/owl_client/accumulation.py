"""Trainers that call `backward` divide the loss by the batches they accumulate: each of them has its own way."""

from __future__ import annotations

from typing import Any

from owl_stream.errors import ConfigError


def trainer_divides_by(trainer: Any, micros_per_step: int, *, ends_step: bool) -> int:
    """By what `trainer` divides a loss before `backward`; 1 where there is none.

    Told apart by their attributes, for importing a trainer's library only to ask would take seconds. `ends_step`:
    whether this batch is the last of a global step.

    Raises:
        ConfigError: its optimizer steps after another batch than the last of a global step, or it is unknown.
    """
    if trainer is None:
        return 1
    if hasattr(trainer, "accumulate_grad_batches"):
        return _of_lightning(trainer, micros_per_step, ends_step)
    if hasattr(trainer, "is_gradient_accumulation_boundary"):
        return _of_deepspeed(trainer, micros_per_step, ends_step)
    if hasattr(trainer, "sync_gradients"):
        return _of_accelerate(trainer, micros_per_step, ends_step)
    raise ConfigError(
        f"step_loss: expected an Accelerator, a DeepSpeed engine, a Lightning Trainer or nothing, got a "
        f"{type(trainer).__name__}; leave it out where loss.backward() is called on what step_loss returns"
    )


def _of_lightning(trainer: Any, micros_per_step: int, ends_step: bool) -> int:
    """Lightning divides before `backward`. Under DeepSpeed the engine then divides once more (Lightning 2.6)."""
    if not trainer.training or not trainer.lightning_module.automatic_optimization:
        return 1
    batches = int(trainer.accumulate_grad_batches)
    _check_batches("accumulate_grad_batches", batches, micros_per_step)
    if not trainer.fast_dev_run:  # which may stop in the middle of a step: it is there to try the code
        _check_end(ends_step, steps_now=not trainer.fit_loop.epoch_loop._should_accumulate())
    return batches * batches if trainer.strategy.handles_gradient_accumulation else batches


def _of_deepspeed(engine: Any, micros_per_step: int, ends_step: bool) -> int:
    batches = int(engine.gradient_accumulation_steps())
    _check_batches("gradient_accumulation_steps", batches, micros_per_step)
    if getattr(engine, "managed_gradient_accumulation", lambda: True)():  # else the caller says where a step ends
        _check_end(ends_step, steps_now=engine.is_gradient_accumulation_boundary())
    return batches


def _of_accelerate(accelerator: Any, micros_per_step: int, ends_step: bool) -> int:
    batches = int(accelerator.gradient_accumulation_steps)
    _check_batches("gradient_accumulation_steps", batches, micros_per_step)
    if accelerator.step or ends_step:  # it counts within `accumulate`; without that the loop steps where it likes
        _check_end(ends_step, steps_now=accelerator.sync_gradients)
    return batches


def _check_batches(name: str, got: int, expected: int) -> None:
    if got != expected:
        raise ConfigError(
            f"expected {name}={expected}, the micro-batches that a rank gets of a global step, got {got}: steps would "
            f"be others than the plan's; set it to the dataset's micros_per_step"
        )


def _check_end(ends_step: bool, *, steps_now: bool) -> None:
    if steps_now == ends_step:
        return
    expected, got = ("step", "accumulate") if ends_step else ("accumulate", "step")
    which = "ends" if ends_step else "does not end"
    raise ConfigError(
        f"expected the trainer to {expected} at this batch, which {which} its global step, got one that is about to "
        f"{got}: batches were left out, an epoch was cut short, or it counts batches from before a checkpoint, when a "
        f"step had another number of them (Accelerate: set accelerator.step = 0 after load_state)"
    )
