"""For Lightning: a callback that ties the data to its checkpoints, and a data module.

Lightning adds the callback to every Trainer by itself (entry point `callbacks_factory`); it does nothing for other
data. Importing this does not import Lightning: `lightning` and `pytorch_lightning` have classes of their own.
"""

from __future__ import annotations

from typing import Any

from owl_client.lightning.guard import STATE_KEY, Guard

__all__ = ["STATE_KEY", "callbacks", "pytorch_lightning_callbacks"]


def callbacks() -> list[Any]:
    """The callback as one of `lightning`'s."""
    from lightning.pytorch.callbacks import Callback  # noqa: PLC0415 # only where that is what is used

    return [type("OwlStreamGuard", (Guard, Callback), {})()]


def pytorch_lightning_callbacks() -> list[Any]:
    """The callback as one of `pytorch_lightning`'s."""
    from pytorch_lightning.callbacks import Callback  # noqa: PLC0415 # as above

    return [type("OwlStreamGuard", (Guard, Callback), {})()]
