"""The server's application under Ray Serve, on as many machines as its cluster has.

RECALIGN_BUNDLES=runs/ml-100k/asft/seed-0/bundles RECALIGN_TOKEN=... serve run benchmarks.serving.ray_serve:app
"""

import os
from pathlib import Path

from fastapi import FastAPI
from ray import serve

from recalign.serve.server.app import make_app


def build() -> FastAPI:
    """Made on each machine, which reads the folder of bundles by the same path."""
    return make_app(Path(os.environ["RECALIGN_BUNDLES"]), os.environ.get("RECALIGN_TOKEN"))


@serve.deployment(num_replicas=2)
@serve.ingress(build)
class Recommender:
    """Replicas; each takes up a new version by itself."""


app = Recommender.bind()
