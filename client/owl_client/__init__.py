"""The trainer's side: an `IterableDataset` that receives batches from owl-stream servers, ready for a model.

It never decodes, tokenises or pads, and imports nothing of the server's but the wire format and the errors.
"""

import logging

from owl_client.batch import Batch, BatchMeta
from owl_client.connection import Timeouts, Tls
from owl_client.dataset import OwlStreamDataset
from owl_client.failover import Backoff
from owl_client.loader import OwlStreamLoader
from owl_client.stats import ClientStats
from owl_client.times import StepTimes
from owl_stream.inert import inert_record

__all__ = [
    "Backoff",
    "Batch",
    "BatchMeta",
    "ClientStats",
    "OwlStreamDataset",
    "OwlStreamLoader",
    "StepTimes",
    "Timeouts",
    "Tls",
]

# Warnings quote servers. Where they go is the trainer's matter, so they are made inert before any handler sees them.
logging.getLogger("owl_client").addFilter(inert_record)
