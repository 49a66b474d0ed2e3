"""Read raw logs into one checked event table. Polars only, no torch."""

from recalign.data.events.audit import audit, render
from recalign.data.events.expression import evaluate
from recalign.data.events.items import ItemValues, read_features, read_titles
from recalign.data.events.log import Feature, ItemTable, LogMapping, data_root
from recalign.data.events.row_wise import row_wise
from recalign.data.events.rows import Report
from recalign.data.events.table import EventTable, fingerprint, load_events

__all__ = [
    "EventTable",
    "Feature",
    "ItemTable",
    "ItemValues",
    "LogMapping",
    "Report",
    "audit",
    "data_root",
    "evaluate",
    "fingerprint",
    "load_events",
    "read_features",
    "read_titles",
    "render",
    "row_wise",
]
