"""Networks that record their constructor arguments, so that a checkpoint can rebuild them."""

import inspect
from typing import Any


class Recorded:
    """Mixin, first base of an `nn.Module`: keep the constructor's arguments in ``made_with``.

    Arguments must be plain values or other recorded networks.
    """

    made_with: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Recorded":
        made = super().__new__(cls)
        # partial: copy.deepcopy passes no arguments, and sets the original's attributes afterwards
        bound = inspect.signature(cls).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(made, "made_with", dict(bound.arguments))
        return made
