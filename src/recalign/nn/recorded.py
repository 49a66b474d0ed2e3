"""Networks that remember how they were made, so that a checkpoint can say how to make them again."""

import inspect
from typing import Any


class Recorded:
    """Keeps the constructor's arguments in ``made_with``.

    To be the first base of an `nn.Module` whose arguments are plain values or other recorded networks.
    """

    made_with: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Recorded":
        made = super().__new__(cls)
        # partial: a copy is made without arguments and gets the original's attributes afterwards
        bound = inspect.signature(cls).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(made, "made_with", dict(bound.arguments))
        return made
