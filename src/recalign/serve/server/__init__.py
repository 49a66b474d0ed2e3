"""Serve a bundle: the same requests and answers from Python, on the command line and over HTTP.

Nothing here imports torch, Lightning or training code; `recalign.serve.export` makes the bundles.
"""

from recalign.serve.server.answer import Answer, Explored, LeftOut, Scored, Shown
from recalign.serve.server.bundle import Bundle, load_bundle
from recalign.serve.server.request import Boost, Explore, Request

__all__ = ["Answer", "Boost", "Bundle", "Explore", "Explored", "LeftOut", "Request", "Scored", "Shown", "load_bundle"]
