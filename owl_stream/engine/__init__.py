"""Where batches are assembled: `InlineEngine` in the server's own process, `ProcessEngine` in local workers.

An engine turns (dataset, coordinate) into a leased frame. It never decides what is in a frame and never sends one.
"""

from owl_stream.engine.consumer import Consumer
from owl_stream.engine.coordinate import Coordinate
from owl_stream.engine.inline import InlineEngine
from owl_stream.engine.processes import ProcessEngine
from owl_stream.engine.shared import Engine, EngineStatistics, FrameLease, SharedPlace
from owl_stream.engine.slabs import Slab

__all__ = [
    "Consumer",
    "Coordinate",
    "Engine",
    "EngineStatistics",
    "FrameLease",
    "InlineEngine",
    "ProcessEngine",
    "SharedPlace",
    "Slab",
]
