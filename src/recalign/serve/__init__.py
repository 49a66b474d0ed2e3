"""Bundles and their server, its log of decisions, and what is estimated from that log."""
