"""A batch as one line: where it is, and a digest of every tensor and row in it."""

from __future__ import annotations

import numpy as np
import torch
import xxhash

from owl_client import Batch


def batch_line(batch: Batch) -> str:
    """Epoch, step and micro, then xxh3-64 over names, shapes, types and bytes of the tensors and over the rows."""
    digest = xxhash.xxh3_64()
    for name in sorted(batch):
        value = batch[name]
        for tensor in value if isinstance(value, list) else [value]:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(np.ascontiguousarray(tensor.contiguous().view(torch.uint8).numpy()))
    digest.update(repr(batch.meta.rows).encode())
    return f"{batch.meta.epoch} {batch.meta.step} {batch.meta.micro} {digest.hexdigest()}"
