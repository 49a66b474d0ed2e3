"""From a run to a bundle: the graph, the checks on it, and the model card."""
