"""What is wrong with settings that the parser refused: found by walking them against what the classes take."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from lightning import LightningDataModule, LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from recalign.errors import InputError, nearest
from recalign.stage.classes import Argument, arguments_of, classes_in, find_class, named_class, nearest_import
from recalign.stage.given import CLASS, set_keys, sources

GIVEN_BY = {
    "model": "a stage's YAML: recalign fit recommender",
    "methods": "a chain's YAML: recalign chain ml-100k",
    "data": "a log's YAML: recalign check ml-100k",
}
OTHER_COMMAND = {"methods": "this is a chain's YAML: recalign chain", "model": "this is a stage's YAML: recalign fit"}
SEE = "see --help for what may be given"
LONG = 200  # characters: what the parser quotes whole tells a reader nothing
LINKED = ("model.num_items", "optimizer.params", "lr_scheduler.optimizer")
"""Filled in from the data, or the model."""
UNNAMED = (LightningModule, LightningDataModule, Optimizer, LRScheduler)
"""Classes that say nothing about what they take: one of theirs has to be named."""


def diagnose(
    settings: Mapping[str, Any], takes: Mapping[str, Argument], error: Exception, words: Sequence[str] = ()
) -> InputError:
    """The error to show for settings that the parser refused with ``error``. ``words`` tell where a key was given."""
    walk = _Walk(settings, takes, words)
    for faults in (walk.faults(settings, takes, ""), walk.interpolations(), _missing(settings, takes, "")):
        if fault := next(faults, None):
            return fault
    lines = [line.strip(" -:") for line in str(error).splitlines() if line.strip(" -")]
    said = [line for line in lines[1:] if len(line) < LONG]
    return InputError(said[-1] if said else lines[0], where=lines[0] if said else None, remedy=SEE)


class _Walk:
    def __init__(self, settings: Mapping[str, Any], takes: Mapping[str, Argument], words: Sequence[str]) -> None:
        self.settings, self.takes, self.words = settings, takes, words

    def faults(self, settings: Mapping[str, Any], takes: Mapping[str, Argument], prefix: str) -> Iterator[InputError]:
        """Everything that cannot stay as it is."""
        for name, value in settings.items():
            name = name.removesuffix("+")
            if name not in takes:
                yield self._unknown(prefix, name, value, takes)
            else:
                yield from self._value(value, takes[name], f"{prefix}{name}")

    def _value(self, value: Any, argument: Argument, key: str) -> Iterator[InputError]:
        classes = classes_in(argument.hint)
        if classes and isinstance(value, list):
            for one in value:
                yield from self._value(one, argument, key)
        elif classes and (isinstance(value, dict) or _named(value, argument)):
            yield from self._class(value, argument, key)
        elif isinstance(value, dict) and argument.hint is str:
            pass  # the name of a file, which has been read
        elif fault := _wrong_type(value, argument.hint):
            yield InputError(fault, where=self._place(key), remedy=_remedy(value, argument.hint))

    def _class(self, value: Any, argument: Argument, key: str) -> Iterator[InputError]:
        path, kind, classes = _named(value, argument), _kind(value, argument), classes_in(argument.hint)
        if kind is None and path:
            near = nearest_import(path)
            remedy = f"did you mean {near}?" if near else "give the full import path of a class"
            yield InputError(f"there is no class {path!r}", where=self._place(key), remedy=remedy)
        elif kind is None:
            remedy = f"name the class first: {GIVEN_BY['model'] if key in GIVEN_BY else f'--{key} CLASS'}"
            yield InputError(f"{key} has values but no class yet", where=self._where(key), remedy=remedy)
        elif path and not issubclass(kind, tuple(classes)):
            remedy = f"give a {' or '.join(one.__name__ for one in classes)}"
            yield InputError(f"{path} is not a class that can stand here", where=self._place(key), remedy=remedy)
        else:
            given = _init_args(value) if isinstance(value, dict) else {}
            yield from self.faults(given, arguments_of(kind), f"{key}.")
            if path or not named_class(argument.default):
                yield from _missing(given, arguments_of(kind), f"{key}.")

    def interpolations(self) -> Iterator[InputError]:
        """Every ``${key}`` that points to nothing."""
        known = self._known(self.settings, self.takes, "")
        for key, value in set_keys(self.settings).items():
            for target in re.findall(r"\$\{([^}]+)\}", value) if isinstance(value, str) else ():
                short = target.replace(".init_args", "")
                if short not in known:
                    near = nearest(short, known)
                    if near and near.split(".")[0] in ("model", "data"):
                        near = near.replace(".", ".init_args.", 1)
                    yield InputError(
                        f"${{{target}}} points to nothing",
                        where=self._place(key),
                        remedy=f"did you mean ${{{near}}}?" if near else "name a key that is set, such as ${model.lr}",
                    )

    def _unknown(self, prefix: str, name: str, value: Any, takes: Mapping[str, Argument]) -> InputError:
        inside = next(iter(set_keys(value)), "") if isinstance(value, dict) else ""
        key = f"{prefix}{name}.{inside}".rstrip(".")
        known = self._known(self.settings, self.takes, "")
        near = nearest(key, (one for one in known if not key.startswith(f"{one}.")))
        there = f"there are: {', '.join(f'{prefix}{one}' for one in sorted(takes))}"
        other = (text for one, text in OTHER_COMMAND.items() if one in self.settings and one not in self.takes)
        remedy = next(other, f"did you mean {near}?" if near else there)
        return InputError(f"there is no key {key!r}", where=self._where(key), remedy=remedy)

    def _known(self, settings: Mapping[str, Any], takes: Mapping[str, Argument], prefix: str) -> set[str]:
        """Every key that may be set, of the classes that are named."""
        known = set()
        for name, argument in takes.items():
            key, value = f"{prefix}{name}", settings.get(name)
            known.add(key)
            for one in value if isinstance(value, list) else [value]:
                if kind := _kind(one, argument):
                    given = _init_args(one) if isinstance(one, dict) else {}
                    known |= self._known(given, arguments_of(kind), f"{key}.")
        return known

    def _where(self, key: str) -> str | None:
        """The option or the file that sets a key."""
        found = [source for source, given, _ in sources(self.words) if _sets(given, key)]
        return found[-1] if found else None

    def _place(self, key: str) -> str:
        """The key, after the file that it stands in."""
        where = self._where(key)
        return f"{where}, {key}" if where and not where.startswith("-") else key


def _named(value: Any, argument: Argument) -> str | None:
    """The class path that a value gives; text is one where no text may stand."""
    if isinstance(value, dict):
        return value.get("class_path")
    text = isinstance(value, str) and value not in ("null", "true", "false") and str not in _plain(argument.hint)
    return value if text else None


def _kind(value: Any, argument: Argument) -> type | None:
    """The class whose arguments a value may set."""
    classes = classes_in(argument.hint)
    path = (_named(value, argument) or named_class(argument.default)) if classes else None
    if not path:
        return classes[0] if classes and classes[0] not in UNNAMED else None
    return find_class(path)


def _init_args(settings: Mapping[str, Any]) -> dict[str, Any]:
    inner = settings.get("init_args") or {}
    return {key: value for key, value in settings.items() if key not in CLASS} | (
        inner if isinstance(inner, dict) else {}
    )


def _sets(given: Mapping[str, Any], key: str) -> bool:
    return any(f"{one}.".startswith(f"{key}.") for one in set_keys(given))


def _plain(hint: Any) -> list[Any]:
    """The types of a hint one by one."""
    inner = typing.get_args(hint)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [one for part in inner for one in _plain(part)] if union else [hint]


def _wrong_type(value: Any, hint: Any) -> str | None:
    """What is wrong with a value of its own, if anything."""
    if hint is Any or (isinstance(value, str) and "${" in value):
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        choices = _choices(hint)
        if choices:
            return f"{value!r} is none of {', '.join(choices)}"
        kinds = [one.__name__ if isinstance(one, type) else str(one) for one in _plain(hint) if one is not type(None)]
        return f"must be {' or '.join(kinds)}, not {value!r}"
    return None


def _choices(hint: Any) -> list[str]:
    return [
        str(one) for part in _plain(hint) if typing.get_origin(part) is typing.Literal for one in typing.get_args(part)
    ]


def _remedy(value: Any, hint: Any) -> str:
    if any(typing.get_origin(one) is list for one in _plain(hint)) and not isinstance(value, list):
        return f"give a list: [{value}]"
    near = nearest(str(value), _choices(hint))
    return f"did you mean {near}?" if near else f"give one of them, or {SEE}" if _choices(hint) else "give such a value"


def _missing(given: Mapping[str, Any], takes: Mapping[str, Argument], prefix: str) -> Iterator[InputError]:
    """The arguments that must be given and are not."""
    if keys := _lacking(given, takes, prefix):
        write = f"write --{keys[0]} VALUE, or set it in a YAML"
        remedy = next((f"name {text}" for key, text in GIVEN_BY.items() if key in keys), write)
        yield InputError(f"{', '.join(keys)} must be given", remedy=remedy)


def _lacking(given: Mapping[str, Any], takes: Mapping[str, Argument], prefix: str) -> list[str]:
    """Keys of the required arguments that are not given; in place of a dataclass, those of its own."""
    keys: list[str] = []
    for name, argument in takes.items():
        key, kind = f"{prefix}{name}", next(iter(classes_in(argument.hint)), None)
        if argument.required and name not in given and key not in LINKED:
            inner = _lacking({}, arguments_of(kind), f"{key}.") if is_dataclass(kind) else []
            keys += inner or [key]
    return keys
