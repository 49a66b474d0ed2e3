"""Programs for `throughput.py` that train one implementation each, in turns; a peer's runs in the peer's Python."""
