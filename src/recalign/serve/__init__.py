"""Bundles, their server, its decision log, and off-policy estimates from the log."""
