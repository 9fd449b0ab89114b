"""Sample bytes -> rows -> batch frames: decode, resize, encode, collate.

It never listens on a socket and never decides which samples make up a batch: a job says so.
"""

from owl_stream.assemble.assembler import STAGES, Assembled, Assembler, AssemblerFactory
from owl_stream.assemble.cache import CacheSettings
from owl_stream.assemble.dataset import Dataset, open_dataset
from owl_stream.assemble.header import Header, probe
from owl_stream.assemble.heaviest import Heaviest
from owl_stream.assemble.images import decode
from owl_stream.assemble.job import Job, JobRow
from owl_stream.assemble.limits import NO_MEMORY, OutOfMemoryError, SampleLimits
from owl_stream.assemble.looks import look_at
from owl_stream.assemble.measure import Measurer
from owl_stream.assemble.tokenizer import ChatTokenizer, TokenizerFile, load_tokenizer
from owl_stream.layouts.recipe import Recipe, settle_all, settle_recipe

__all__ = [
    "NO_MEMORY",
    "STAGES",
    "Assembled",
    "Assembler",
    "AssemblerFactory",
    "CacheSettings",
    "ChatTokenizer",
    "Dataset",
    "Header",
    "Heaviest",
    "Job",
    "JobRow",
    "Measurer",
    "OutOfMemoryError",
    "Recipe",
    "SampleLimits",
    "TokenizerFile",
    "decode",
    "load_tokenizer",
    "look_at",
    "open_dataset",
    "probe",
    "settle_all",
    "settle_recipe",
]
