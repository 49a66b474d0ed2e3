"""Answers from a bundle: one contract of request and answer, for Python, the command and HTTP.

Nothing here imports torch, Lightning or a part that trains; `recalign.serve.export` makes the bundles.
"""

from recalign.serve.server.answer import Answer, Explored, LeftOut, Scored, Shown
from recalign.serve.server.bundle import Bundle, load_bundle
from recalign.serve.server.request import Boost, Explore, Request

__all__ = ["Answer", "Boost", "Bundle", "Explore", "Explored", "LeftOut", "Request", "Scored", "Shown", "load_bundle"]
