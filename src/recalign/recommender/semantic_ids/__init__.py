"""Semantic ids: each item as a few codes, made from its vector, which a recommender over codes generates."""

from recalign.recommender.semantic_ids.codes import Codes, load_codes
from recalign.recommender.semantic_ids.vectors import Cooccurrence, ItemVectors, ParquetVectors

__all__ = ["Codes", "Cooccurrence", "ItemVectors", "ParquetVectors", "load_codes"]
