"""Matrix factorisation of rewards and co-occurrence embeddings of items, in NumPy and SciPy."""
