"""`recalign chain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recalign.errors import InputError
from recalign.keys import short, split
from recalign.run.chain.experiment import Chain
from recalign.run.chain.plan import Overrides, Plan
from recalign.run.chain.run import run_chain
from recalign.run.stage.settings import instantiated, parse_call


def chain(argv: Sequence[str]) -> Path:
    """The main job. Any stage's settings can be given too: --trainer.KEY and --data.KEY for all stages,
    --stages.STAGE.KEY for one.

    Args:
        argv: the words after ``recalign chain``.

    Returns:
        The chain's run folder.

    Raises:
        InputError: something that was given cannot be used.
    """
    own, overrides = split_overrides(argv)
    description = " ".join((chain.__doc__ or "").split("\n\n")[0].split())
    parser, parsed = parse_call("chain", description, Chain, own, "the chain's YAML")
    if not parsed.config:
        raise InputError("no chain is named", remedy="give its YAML: recalign chain ml-100k")
    return run_chain(Plan(Chain(**instantiated(parser, parsed)), Path(str(parsed.config[-1])), overrides))


def split_overrides(argv: Sequence[str]) -> tuple[list[str], Overrides]:
    """Separate the chain's own options from those of its stages.

    ``--trainer.X`` and ``--data.X`` go to every stage, ``--stages.<stage>.X`` to one.

    Returns:
        The chain's own words, and the others.
    """
    own: list[str] = []
    overrides: Overrides = {}
    for option, value, words in split(argv):
        if option.startswith(("--model.", "--checkpoint.", "--early_stopping.")):
            raise InputError(
                "is a setting of one stage", where=option, remedy=f"write --stages.STAGE.{option[2:]} VALUE"
            )
        if not option.startswith(("--trainer.", "--data.", "--stages.")):
            own += words
            continue
        if value is None:
            raise InputError("a value must follow", where=option, remedy=f"write {option} VALUE")
        stage = None
        if option.startswith("--stages."):
            stage, _, key = option.removeprefix("--stages.").partition(".")
            if not key:
                raise InputError("names no setting", where=option, remedy="write --stages.STAGE.KEY VALUE")
            option = f"--{key}"
        key, of_stage = short(option.removeprefix("--")), overrides.setdefault(stage, {})
        if key.endswith("+") and key in of_stage:
            raise InputError("stands there twice", where=option, remedy="give both in one list: [A, B]")
        of_stage[key] = value
    return own, overrides
