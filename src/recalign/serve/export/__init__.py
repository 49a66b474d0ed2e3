"""Export a run as a bundle: the ONNX graph, its checks and the model card."""
