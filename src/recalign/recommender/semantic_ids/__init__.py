"""Semantic ids: each item as a few codes, computed from its vector. A recommender over codes generates them."""

from recalign.recommender.semantic_ids.codes import CodesTable, load_codes
from recalign.recommender.semantic_ids.vectors import Cooccurrence, ItemVectors, ParquetVectors, RecommenderVectors

__all__ = ["CodesTable", "Cooccurrence", "ItemVectors", "ParquetVectors", "RecommenderVectors", "load_codes"]
