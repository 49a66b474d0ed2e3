"""Errors of jsonargparse in one line: the key, the innermost complaint, and the nearest name that exists.

Its messages (jsonargparse 4.53) are trees by indentation: some lines name a key or a class, the others are complaints,
one for each type that was tried.
"""

from __future__ import annotations

import importlib
import re
from ast import literal_eval
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from jsonargparse import ArgumentParser
from lightning.pytorch import callbacks, loggers
from torch import optim

from recalign.data.events.log import HOW_READ
from recalign.errors import InputError, nearest
from recalign.run.words import imported, short

SEE = "see --help for what may be given"
GIVEN_BY = {
    "model": "name a stage's YAML first: recalign fit recommender",
    "methods": "name a chain's YAML: recalign chain ml-100k",
    "data": "name a log's YAML: {command} ml-100k",
    "optimizer": "name its class first: --optimizer AdamW --optimizer.lr 0.001",
    "lr_scheduler": "name its class first: --lr_scheduler StepLR",
}
"""Remedies if one of these keys is missing, or has no class yet."""
ROOMS = (callbacks, loggers, optim, optim.lr_scheduler)
"""Lightning's callbacks and loggers, torch's optimisers and schedulers may be named without their module."""

KEY, CLASS = re.compile(r'Parser key "(.+?)"'), re.compile(r"Problem with given class_path '(.+)'")
UNKNOWN = re.compile(r"Option '([^']+)' is not|does not accept option '([^']+)'|unrecognized arguments: ?(-[^\s=]+|.*)")
GROUP = re.compile(r"Group '([^']+)' does not accept")
MISSING = re.compile(r'arguments are required: (.+)|Key "(.+?)" is required')
NO_CLASS = re.compile(
    r"No module named|has no attribute|import path|Import path|Not a valid subclass|class path|Unable to load config"
)
TYPE = re.compile(r"Expected an? (?:typing\.Literal(\[.+?\])|(?:<class ')?(.+?)(?:'>)?)(?:\. Got value.*)?$")
LITERAL = re.compile(r"typing\.Literal(\[.+?\])")
VALUE = re.compile(r"(?:Got|Given) value: (.*)|Expected a path but (\S+)|import path string: (.*)|load config '(.*)'")
NOISE = re.compile(r"<class 'NoneType'>|Does not validate|Expected a path|Subtypes: |Errors:|Given value|^$|^- *$")

Sources = Sequence[tuple[str, Mapping[str, Any]]]
"""Each file and option of a command, in order, with the values that it sets, by dotted key."""


class Complaint(NamedTuple):
    """A line of jsonargparse's message that states a problem.

    Attributes:
        key: the setting that the line is about.
        class_path: path of the innermost class above the line.
        argument: the class of which the setting is an argument, and the argument's name.
    """

    text: str
    key: str
    class_path: str
    argument: tuple[str, str]


def diagnose(error: Exception, parser: ArgumentParser, sources: Sources) -> InputError:
    """The error to show for settings that the parser refused with ``error``."""
    message = str(error)
    found = list(complaints(message)) or [Complaint(message, "", "", ("", ""))]
    named = (one for one in found if UNKNOWN.search(one.text) or MISSING.search(one.text))
    complaint = next(named, None) or max(found, key=lambda one: one.key.count(".") + bool(one.key))
    text, key, class_path, _ = complaint
    known = known_keys(parser, sources, key, class_path if UNKNOWN.search(text) else "")
    if unknown := UNKNOWN.search(text):
        if class_path.endswith(("LightningModule", "LightningDataModule")):
            what, where = f"{key} has values but no class yet", _source(sources, key)
            return InputError(what, where=where, remedy=GIVEN_BY["model"])
        if (word := unknown[3]) is not None and not (word.startswith("-") and word.strip("-")):
            remedy = "arguments without an option come first; YAML may also follow --config"
            what = f"{word!r} belongs to no option" if word.strip("-") else "an argument is empty, or has only dashes"
            return InputError(what, remedy=remedy)
        groups, option = GROUP.findall(text), next(filter(None, unknown.groups())).lstrip("-")
        key = ".".join([key, *groups, short(option)]).lstrip(".").removesuffix(".class_path")
        kind = key.partition(".")[0]
        has_class = any(kind in given or f"{kind}.class_path" in given for _, given in sources)
        classless = kind in ("optimizer", "lr_scheduler") and not has_class
        remedy = GIVEN_BY[kind] if classless else _suggest(key, known)
        return InputError(f"there is no key {key!r}", where=_source(sources, key), remedy=remedy)
    if missing := MISSING.search(text):
        keys = [f"{key}.{one}".lstrip(".") for one in next(filter(None, missing.groups())).split(", ")]
        remedy = next((GIVEN_BY[one] for one in GIVEN_BY if one in keys), f"write --{keys[0]} VALUE")
        return InputError(f"{', '.join(keys)} must be given", remedy=remedy.format(command=parser.prog))
    if "expected one argument" in text:
        where = next((name for name, has in sources if name.startswith("-") and None in has.values()), text)
        return InputError("a value must follow", where=where, remedy=f"write {where}=VALUE")
    return _refused_value(message, complaint, [one.text for one in found if one.key == key], sources)


def _refused_value(message: str, complaint: Complaint, about: list[str], sources: Sources) -> InputError:
    """The error for a value that is refused; ``about``: all complaints about its key."""
    values = ["".join(one) for one in VALUE.findall(message)]
    value = next((one for one in reversed(values) if not one.startswith(("NestedArg", "{"))), complaint.class_path)
    source = _source(sources, complaint.key) or next((name for name, has in sources if value in has.values()), "")
    places = [complaint.key] if source.startswith("-") and complaint.key else [source, complaint.key]
    where = ", ".join(filter(None, places)) or None
    if any(NO_CLASS.search(one) for one in about):
        kinds = _expected(*complaint.argument)
        if keys := [one.name for kind in kinds if is_dataclass(kind) for one in fields(kind)]:
            return InputError(f"must be a mapping, not {value!r}", where=where, remedy=f"keys: {', '.join(keys)}")
        remedy = _suggest(value, _classes(value, message, kinds))
        return InputError(f"there is no class {value!r}", where=where, remedy=remedy)
    types = [match[2] for one in about if (match := TYPE.search(one)) and match[2]]
    literals = [str(one) for listed in LITERAL.findall(message) for one in literal_eval(listed)]
    restricted = [one.replace("Not of type ", "", 1) for one in about if one.startswith("Not of type")]
    wanted = dict.fromkeys([*types, *literals, *restricted])
    given = "" if {*complaint.key.split(".")} & {*HOW_READ} else f", not {value!r}"  # it may be a secret
    what = f"must be {' or '.join(wanted)}{given}" if wanted else complaint.text
    return InputError(what, where=where, remedy=_suggest(value, literals))


def complaints(message: str) -> Iterator[Complaint]:
    """The lines of jsonargparse's message that state a problem, each with its key and class."""
    above: list[tuple[int, str, str]] = []
    for line in filter(str.strip, message.splitlines()):
        text = line.strip(" -")  # this line is indented like its key
        depth = len(line) - len(line.lstrip(" -")) + text.startswith("Unable to load config")
        above = [one for one in above if one[0] < depth]
        branch = next(((kind, found[1]) for kind in (KEY, CLASS) if (found := kind.match(text))), None)
        if branch:
            above.append((depth, branch[0].pattern, branch[1]))
        elif not NOISE.search(text):
            keys = [name for _, kind, name in above if kind == KEY.pattern]
            classes = [name for _, kind, name in above if kind == CLASS.pattern]
            kinds = (CLASS.pattern, KEY.pattern)
            arguments = [(one[2], other[2]) for one, other in pairwise(above) if (one[1], other[1]) == kinds]
            yield Complaint(text, short(".".join(keys)), classes[-1] if classes else "", (arguments or [("", "")])[-1])


def known_keys(parser: ArgumentParser, sources: Sources, key: str, class_path: str) -> set[str]:
    """All keys that may be set, including the arguments of the classes that settings name."""
    named = {one.removesuffix(".class_path"): str(value) for _, given in sources for one, value in given.items()}
    named |= {key: class_path} if class_path else {}
    known = set(map(short, parser.get_defaults().keys())) - {"config"}
    return known | {f"{one}.{name}".lstrip(".") for one, path in named.items() for name in _arguments(path)}


def _suggest(word: str, names: Collection[str]) -> str:
    names = [one for one in names if one and not f"{word}.".startswith(f"{one}.") and not one.startswith(f"{word}.")]
    near, (first, dot, rest) = nearest(word, names), word.partition(".")
    if near is None and (group := nearest(first, {one.partition(".")[0] for one in names} - {first})):
        near = group + dot + rest
    return f"did you mean {near}?" if near else SEE


def _source(sources: Sources, key: str) -> str | None:
    given = (name for name, values in reversed(sources) if any(f"{one}.".startswith(f"{key}.") for one in values))
    return next(given, None) if key else None


def _expected(class_path: str, argument: str) -> list[type]:
    """Classes that an argument of a class may be, such as ``log.items`` of a data module."""
    kinds = list[type]()
    with suppress(ImportError, AttributeError, ValueError, LookupError, NameError, TypeError):
        kinds = [imported(class_path)]
        for name in argument.split("."):
            hint = get_type_hints(kinds[0].__init__)[name]  # type: ignore[misc]
            kinds = [one for one in (hint, *get_args(hint)) if isinstance(one, type) and one is not NoneType]
    return kinds if argument else []


def _classes(path: str, message: str, kinds: list[type]) -> list[str]:
    """Classes that a wrong path may mean: those of its module; for a bare name, subclasses of the types tried."""
    module, _, name = path.rpartition(".")
    if module:
        with suppress(ImportError, ValueError):
            found = vars(importlib.import_module(module)).items()
            return [f"{module}.{one}" for one, value in found if isinstance(value, type) and one != name]
    kinds = [*kinds]
    for tried in re.findall(r"<class '([\w.]+)'>|subclass of ([\w.]+)", message):
        with suppress(ImportError, AttributeError, ValueError):
            kinds.append(imported("".join(tried)))
    for kind in kinds:
        kinds += type.__subclasses__(kind)
    return [*(kind.__name__ for kind in kinds), *(name for room in ROOMS for name in room.__all__)]


@cache
def _arguments(class_path: str) -> list[str]:
    try:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(imported(class_path), sub_configs=True, fail_untyped=False)
    except (ImportError, AttributeError, ValueError):
        return []
    return [short(one) for one in parser.get_defaults().keys() if "__" not in one]  # noqa: SIM118
