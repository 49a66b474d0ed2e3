"""Arguments that a constructor passes on to its base class, typed for editors and type checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Init = TypeVar("Init", bound=Callable[..., None])


def passes_on(init: Init) -> Init:
    """Mark a constructor whose ``**name: Unpack[SomeTypedDict]`` goes to its base class.

    Editors read the TypedDict. jsonargparse would too, but a TypedDict has no defaults: without the annotation it reads
    the base class, which has them. So each default and its description have one home.
    """
    init.__annotations__ = {
        name: Any if str(hint).startswith("Unpack") else hint for name, hint in init.__annotations__.items()
    }
    return init
