"""Fine-tune a vision-language model with Lightning. Killed, it goes on, on any number of ranks.

python examples/lightning_ddp.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints
"""

from __future__ import annotations

import os
from typing import Any

import lightning
import torch
from arguments import parse
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForImageTextToText

from owl_client import Batch
from owl_client.lightning.data import OwlStreamDataModule


class Owl(lightning.LightningModule):
    """A model of transformers, and how it learns."""

    def __init__(self, model: str, learning_rate: float) -> None:
        super().__init__()
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).train()
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """The part that a micro-batch has in its step's loss."""
        return batch.step_loss(self.model(**batch, use_cache=False).loss, self.trainer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Of all weights."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    args = parse(__doc__)
    data = OwlStreamDataModule(args.url, args.dataset, micro_batch_size=args.micro_batch_size)
    saving = ModelCheckpoint(
        args.checkpoints, every_n_train_steps=args.save_every, save_last=True, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        devices="auto" if torch.cuda.is_available() else int(os.environ.get("CPU_RANKS", "1")),
        strategy="ddp_find_unused_parameters_true",  # a step of text alone gives the vision tower no gradient
        max_epochs=args.epochs,
        callbacks=[saving],
        default_root_dir=args.checkpoints,
        log_every_n_steps=1,
    )
    trainer.fit(Owl(args.model, args.learning_rate), datamodule=data, ckpt_path="last")


if __name__ == "__main__":
    main()
