"""Read raw logs into one checked event table. Polars only, no torch."""

from recalign.events.audit import audit, render
from recalign.events.expression import evaluate
from recalign.events.items import ItemValues, read_features, read_titles
from recalign.events.log import Feature, ItemTable, LogMapping, data_root
from recalign.events.report import Report
from recalign.events.table import EventTable, fingerprint, load_events

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
]
