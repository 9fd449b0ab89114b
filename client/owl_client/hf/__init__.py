"""For Hugging Face's `Trainer`: a mixin that feeds it as it comes, owns its loss and ties the data to its checkpoints.

    class OwlTrainer(OwlStreamMixin, Trainer): ...

Importing this imports transformers; nothing else of owl_client does.
"""

from owl_client.hf.checkpoint import STATE_KEY, newest_checkpoint
from owl_client.hf.mixin import OwlStreamMixin

__all__ = ["STATE_KEY", "OwlStreamMixin", "newest_checkpoint"]
