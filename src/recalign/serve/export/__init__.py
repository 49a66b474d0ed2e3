"""From a run to a bundle: the graph, the checks on it, and the model card."""

from recalign.serve.export.item_vectors import BundleVectors

__all__ = ["BundleVectors"]
