"""What a data set's settings say about reading its records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RecordOptions:
    """`on_unknown_field`: count a field that nobody here knows, or refuse its record.

    `literal_markers`: other tools' markers (`<image>`, `<video>`) are text in every record; a record can say so too.
    """

    on_unknown_field: Literal["count", "refuse"] = "count"
    literal_markers: bool = False
