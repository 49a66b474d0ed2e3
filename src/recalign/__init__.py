"""recalign: align a generative recommender with what users value, from logged feedback alone."""

__version__ = "0.9.0"
