"""Write a graph as ONNX, with the dynamo exporter."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from recalign.errors import InputError
from recalign.serve.export.graph import Graph
from recalign.serve.server.about import NODES

OPSET = 20
OUTPUTS = ("items", "scores", "logits")
ROWS = 2**20  # upper bound declared for hidden items; times 1024 for all items


def write(graph: Graph, tables: dict[str, Tensor], max_length: int, path: Path) -> None:
    """Write a graph.

    Args:
        graph: on the CPU, in eval mode.
        tables: `Part.tables` of its part.
        max_length: the longest history that it accepts.
        path: the file to write.

    Raises:
        InputError: the policy, such as one with a user's own encoder, cannot be exported.
    """
    own = {name: table.clone() for name, table in tables.items()}  # as a parameter its size would be fixed
    given = {**example(graph, max_length), **own}
    batch, items, hidden = Dim("B", min=1, max=4096), Dim("N", min=graph.k, max=ROWS * 1024), Dim("S", max=ROWS)
    length = Dim("L", min=2, max=max_length)
    shapes: dict[str, Any] = {name: {0: batch, 1: length} for name in ("item", "time", "reward", "request_time")}
    shapes |= {"length": {0: batch}, "strength": {0: batch}, "hidden": {0: batch, 1: hidden}}
    shapes |= {name: {} if name.startswith(NODES) else {0: items} for name in tables}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # hints at optional packages
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                kwargs={"given": given},
                dynamo=True,
                dynamic_shapes={"given": {name: shapes[name] for name in given}},
                input_names=list(given),
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        what = f"the policy cannot be exported: {str(error.__cause__ or error).splitlines()[0]}"
        raise InputError(what, remedy="use an encoder of recalign, or write yours in plain operations") from error
    assert program is not None  # dynamo=True returns one
    path.write_bytes(_bare(program.model_proto).SerializeToString(deterministic=True))


def _bare(model: Any) -> Any:
    """A model without the exporter's metadata, which holds source paths and lines of this machine."""
    parts = [one for graph in [model.graph, *model.functions] for one in (graph, *graph.node, *graph.value_info)]
    for part in (model, *parts, *model.graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


def example(graph: Graph, max_length: int) -> dict[str, Tensor]:
    """Inputs to export with: three histories of different lengths, since sizes 0 and 1 would become constants."""
    rows = min(4, max_length)
    item_BL = torch.tensor([[1] * rows, [1] * (rows - 1) + [0], [0] * rows])
    found = {
        "item": item_BL,
        "time": torch.arange(rows).expand(3, -1).contiguous(),
        "length": (item_BL > 0).sum(dim=1),
        "hidden": torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]),
        "reward": torch.full((3, rows), 1.0),
        "request_time": torch.arange(rows).expand(3, -1) + 1,
        "strength": torch.ones(3),
    }
    return {name: found[name] for name in graph.inputs}
