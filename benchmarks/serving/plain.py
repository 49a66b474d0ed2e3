"""The server that one writes in an hour: FastAPI, ONNX Runtime and a pool of threads, without batches.

    BUNDLE=runs/ml-100k/asft/seed-0/bundles/<version> uvicorn benchmarks.serving.plain:app

It reads the graph, the tables and the items of a bundle, and knows nothing else of it: no filters, no exploring, no
unknown items, no versions, no bounds. It is what `recalign serve` has to be worth its lines beside.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
from fastapi import FastAPI
from pydantic import BaseModel
from safetensors.numpy import load_file

FOLDER, MAX_LENGTH = Path(os.environ["BUNDLE"]), 200
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(str(FOLDER / "policy.onnx"), options)
tables, items = load_file(FOLDER / "items.safetensors"), pl.read_parquet(FOLDER / "items.parquet")
ids, titles = items["item"].to_list(), items["title"].to_list()
number = {item: n for n, item in enumerate(ids, start=1)}
pool = ThreadPoolExecutor(os.cpu_count())
app = FastAPI()


class Request(BaseModel):
    items: list[int]
    times: list[int]
    k: int = 10


def answer(request: Request) -> dict[str, Any]:
    item = np.array([[number[one] for one in request.items[-MAX_LENGTH:]]])
    time = np.array([request.times[-MAX_LENGTH:]])
    length = np.array([item.shape[1]])
    inputs = {"item": item, "time": time, "length": length, "hidden": item, **tables}
    item, score = (found[0, : request.k].tolist() for found in session.run(["items", "scores"], inputs))
    pairs = zip(item, score, strict=True)
    return {"items": [{"item": ids[n - 1], "title": titles[n - 1], "score": x} for n, x in pairs]}


@app.post("/recommend")
async def recommend(request: Request) -> dict[str, Any]:
    return await asyncio.get_running_loop().run_in_executor(pool, answer, request)
