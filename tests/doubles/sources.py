"""Source files that change while tests run."""

from recalign import code


def forget() -> None:
    """Read every file anew; a process otherwise reads each once, as it imports it once."""
    for cached in (code._installed, code.source_file, code._tree, code._source_digest, code._imports, code._reexported):
        cached.cache_clear()
