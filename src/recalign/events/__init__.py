"""Read raw logs into one checked event table. Polars only, no torch."""

from recalign.events.audit import audit, render
from recalign.events.expression import evaluate
from recalign.events.log import LogMapping, Titles, data_root
from recalign.events.report import Report
from recalign.events.table import EventTable, fingerprint, load_events
from recalign.events.titles import read_titles

__all__ = [
    "EventTable",
    "LogMapping",
    "Report",
    "Titles",
    "audit",
    "data_root",
    "evaluate",
    "fingerprint",
    "load_events",
    "read_titles",
    "render",
]
