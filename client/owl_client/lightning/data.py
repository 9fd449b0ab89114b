"""A `LightningDataModule`: names of datasets on a server, for training and for validation."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from owl_client.dataset import OwlStreamDataset
from owl_client.loader import OwlStreamLoader
from owl_stream.errors import ConfigError


def _data_module() -> type:
    """The class of the package that is in use: `lightning` and `pytorch_lightning` take each only their own."""
    names = ("lightning.pytorch", "pytorch_lightning")
    used = [name for name in names if name in sys.modules] or [name for name in names if _is_installed(name)]
    module: type = importlib.import_module((used or names)[0]).LightningDataModule
    return module


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None


class OwlStreamDataModule(_data_module()):  # type: ignore[misc] # of one package or the other
    """Datasets of owl-stream servers for `trainer.fit(module, datamodule=...)`.

    They are made when the Trainer knows its ranks, for this rank of the strategy's data-parallel group and on its
    device. `accumulate_grad_batches` is set to what the training data needs, unless the Trainer was given another
    number than 1. The
    state of the data stands in every checkpoint; `ckpt_path=` goes on there.

    Args:
        url: `http://host:port`, or several for failover.
        train: the dataset to train on.
        val: the dataset to validate on, once from beginning to end each time; None for no validation.
        test: as `val`, for `trainer.test`.
        micro_batch_size: rows a batch has; None gives a rank its whole part of a global step at once.
        num_workers: processes that receive the training data; 0 receives in a thread, which is enough as a rule.
        options: of `OwlStreamDataset`, for all of them.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        *,
        micro_batch_size: int | None = None,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self._url, self._train_name, self._names = url, train, {"validate": val, "test": test}
        self._options, self._num_workers = {"micro_batch_size": micro_batch_size, **options}, num_workers
        self._train: OwlStreamDataset | None = None
        self._sets_accumulation = False

    def setup(self, stage: str) -> None:
        """Make the training data, and have the Trainer accumulate over the batches of a global step.

        Raises:
            ConfigError: a callback would change over how many.
        """
        if stage != "fit":
            return
        self._train = self._dataset(self._train_name)
        automatic = self.trainer.lightning_module.automatic_optimization
        self._sets_accumulation = automatic and self.trainer.accumulate_grad_batches == 1
        if not self._sets_accumulation:
            return
        for callback in self.trainer.callbacks:
            if type(callback).__name__ == "GradientAccumulationScheduler":
                raise ConfigError(
                    "callbacks: expected no GradientAccumulationScheduler: over how many batches gradients are "
                    "accumulated follows from the server's global_batch_size; leave it out"
                )
        self.trainer.accumulate_grad_batches = self._train.micros_per_step

    def teardown(self, stage: str) -> None:
        """Leave the Trainer as it was, for the data of its next `fit`."""
        if stage == "fit" and self._sets_accumulation:
            self.trainer.accumulate_grad_batches = 1

    def train_dataloader(self) -> OwlStreamDataset | OwlStreamLoader:
        """The rest of an epoch, then the next."""
        assert self._train is not None, "Lightning calls setup first"
        return OwlStreamLoader(self._train, num_workers=self._num_workers) if self._num_workers else self._train

    def val_dataloader(self) -> OwlStreamDataset | list[Any]:
        """The same batches each time; none where no dataset was named."""
        return self._evaluated("validate")

    def test_dataloader(self) -> OwlStreamDataset | list[Any]:
        """As `val_dataloader`."""
        return self._evaluated("test")

    def _evaluated(self, stage: str) -> OwlStreamDataset | list[Any]:
        name = self._names[stage]
        return self._dataset(name, evaluate=True) if name else []

    def _dataset(self, name: str, **options: Any) -> OwlStreamDataset:
        options = {"device": self.trainer.strategy.root_device, **self._ranks(), **self._options, **options}
        return OwlStreamDataset(self._url, name, **options)

    def _ranks(self) -> dict[str, int]:
        """Of the data-parallel group, which under tensor parallelism is not all processes."""
        group = self.trainer.distributed_sampler_kwargs
        return {} if group is None else {"rank": group["rank"], "world_size": group["num_replicas"]}
