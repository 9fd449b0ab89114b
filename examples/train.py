"""Train Tiny Owl on what an owl-stream server sends. Stop it whenever you like; start it again and it goes on.

The server first, then this: `python examples/train.py http://127.0.0.1:8000 demo`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny_owl3 import TinyOwl3

from owl_client import OwlStreamDataset

EPOCHS, SAVE_EVERY_STEPS, VOCAB_SIZE = 3, 20, 1000
CHECKPOINT = Path("tiny-owl3.pt")


def main(url: str, name: str) -> None:
    """Train for EPOCHS epochs, from the checkpoint if there is one."""
    torch.manual_seed(0)
    model = TinyOwl3(VOCAB_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    dataset = OwlStreamDataset(url, dataset=name, micro_batch_size=4, device="cpu", dtype=torch.float32)
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        dataset.load_state_dict(saved["data"])

    while dataset.state_dict()["epoch"] < EPOCHS:
        step_loss = 0.0
        for batch in dataset:  # the rest of the current epoch
            meta = batch.meta
            # Summed over the micro-batches of a global step: the mean over all its supervised tokens, on all ranks.
            loss = batch.step_loss(model(**batch).loss)
            loss.backward()
            step_loss += loss.item()
            if meta.state["micro"] != 0:
                continue  # the global step goes on
            optimizer.step()
            optimizer.zero_grad()
            print(f"epoch {meta.epoch} step {meta.step} loss {step_loss:.4f}", flush=True)
            step_loss = 0.0
            if meta.state["step"] % SAVE_EVERY_STEPS == 0:  # step 0 is an epoch's end: the state is what comes next
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "data": meta.state}
                torch.save(state, CHECKPOINT)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/train.py URL DATASET")
    main(*sys.argv[1:])
