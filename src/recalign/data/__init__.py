"""Raw logs -> one checked event table -> splits, histories, batches."""
