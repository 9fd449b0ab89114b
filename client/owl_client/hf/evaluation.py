"""The exact loss of an evaluation: a mean over tokens, where the Trainer takes one over batches."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from owl_client.batch import BatchMeta


@dataclass
class Evaluated:
    """What one rank has evaluated, batch by batch. Losses stay on their device: reading each would wait for it."""

    losses: list[torch.Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    rows: int = 0

    def add(self, loss: torch.Tensor, meta: BatchMeta) -> None:
        """Note a batch; `loss` is the mean over its supervised tokens."""
        self.losses.append(loss.detach())
        self.tokens.append(meta.supervised_tokens)
        self.rows += sum(row.status == "ok" for row in meta.rows)

    def sums(self) -> torch.Tensor:
        """float64 [3]: the sum of token losses, tokens, good rows. They add up over ranks."""
        tokens = torch.tensor(self.tokens, dtype=torch.float64, device="cpu")
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        if self.losses:
            total = torch.stack(self.losses).to("cpu", torch.float64) @ tokens
        rows = torch.tensor(self.rows, dtype=torch.float64, device="cpu")
        return torch.stack([total, tokens.sum(), rows])
