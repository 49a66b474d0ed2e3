"""Matrix factorisations of rewards, and co-occurrence embeddings of items. NumPy and torch, no Lightning."""
