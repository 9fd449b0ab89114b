"""WebDataset tars: finds, strictly scans and reads them, and keeps what scanning has taught in an index.

Never decodes pixels, never tokenises, never follows a link or runs a shell, never imports torch or webdataset.
"""

from owl_stream.shards.build import Progress, build_index
from owl_stream.shards.cost import TOWER_POOLS, Cost, Costs, Measure, MeasureFactory, Pool, RowSize, Spans
from owl_stream.shards.index import Index
from owl_stream.shards.quarantine import Quarantined
from owl_stream.shards.record import Record, read_record
from owl_stream.shards.rows import RowTable, RowTables
from owl_stream.shards.sample import Member, Sample, read_sample, read_span
from owl_stream.shards.source import NotRegularError, Shard, find_shards, open_regular
from owl_stream.shards.tables import IndexPlace

__all__ = [
    "TOWER_POOLS",
    "Cost",
    "Costs",
    "Index",
    "IndexPlace",
    "Measure",
    "MeasureFactory",
    "Member",
    "NotRegularError",
    "Pool",
    "Progress",
    "Quarantined",
    "Record",
    "RowSize",
    "RowTable",
    "RowTables",
    "Sample",
    "Shard",
    "Spans",
    "build_index",
    "find_shards",
    "open_regular",
    "read_record",
    "read_sample",
    "read_span",
]
