"""The graph as ``torch.export`` writes it, for whoever compiles it or serves with torch; our server never reads it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recalign.serve.export.graph import Graph
from recalign.serve.export.onnx import OUTPUTS, dynamic
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.catalogue import Encoded

PROGRAM = "model.pt2"
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")
"""What an exporter notes at each node: paths and lines of the machine that wrote it."""


def write(graph: Graph, tables: dict[str, Tensor], max_length: int, path: Path) -> None:
    """Write a graph that `recalign.serve.export.onnx.write` could write, whose arguments these are."""
    given, shapes = dynamic(graph, tables, max_length)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (), {"given": given}, dynamic_shapes={"given": shapes}, strict=False)
    for node in program.graph.nodes:
        for name in TRACES:
            node.meta.pop(name, None)
    torch.export.save(program, path)


class ProgramBundle(Bundle):
    """A bundle that is answered by ``model.pt2``: to compare it with the policy, as the other graph is."""

    def __init__(self, bundle: Bundle) -> None:
        vars(self).update(vars(bundle))
        self.program = torch.export.load(bundle.folder / PROGRAM).module()

    def run(self, group: Sequence[Encoded], outputs: list[str]) -> list[np.ndarray]:
        """As `Bundle.run`."""
        given = {name: torch.from_numpy(x) for name, x in self.inputs(group).items()}
        with torch.no_grad():
            found = dict(zip(OUTPUTS, self.program(given=given), strict=True))
        return [found[name].numpy() for name in outputs]
