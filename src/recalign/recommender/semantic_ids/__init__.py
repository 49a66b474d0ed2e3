"""Semantic ids: each item as a few codes, made from its vector, which a recommender over codes generates."""

from recalign.recommender.semantic_ids.codes import CodesTable, load_codes
from recalign.recommender.semantic_ids.vectors import Cooccurrence, ItemVectors, ParquetVectors, RecommenderVectors

__all__ = ["CodesTable", "Cooccurrence", "ItemVectors", "ParquetVectors", "RecommenderVectors", "load_codes"]
