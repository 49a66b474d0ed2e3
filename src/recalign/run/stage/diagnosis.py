"""Say in a user's words what jsonargparse refuses: what, where, and the nearest that exists.

Its messages, as seen with jsonargparse 4.53, are trees by indentation: a line of `BRANCHES` leads to a key or names a
class, and a line of `FAULTS` says what is wrong there.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from recalign.errors import InputError, nearest
from recalign.keys import short
from recalign.run.stage.classes import fitting, imported, nearest_import

SEE = "see --help for what may be given"
LONG = 200  # characters: what the parser quotes whole tells a reader nothing
GIVEN_BY = {
    "model": "a stage's YAML: recalign fit recommender",
    "methods": "a chain's YAML: recalign chain ml-100k",
    "data": "a log's YAML: {command} ml-100k",
}
OTHER_COMMAND = {"methods": "this is a chain's YAML: recalign chain", "model": "this is a stage's YAML: recalign fit"}
RENAMED = {"data.log.titles": "data.log.items"}
"""Settings of version 0.9 that have another name."""
UNNAMED = ("LightningModule", "LightningDataModule", "Optimizer", "LRScheduler", "Callback")
"""Classes that say nothing about what they take: one of theirs has to be named."""

PATH = re.compile(r"[\w.]+|\{.*")
"""What an import path, or a class with its arguments, may look like."""
BRANCHES = {"key": r'Parser key "(.+?)"', "class_path": r"Problem with given class_path '(.+)':"}
FAULTS = {
    "unknown": r"(?:Group '(?P<group>.+)' does not accept option|Option) '(?P<name>[^']+)'",
    "unrecognized": r"unrecognized arguments: (?P<name>.+)",
    "missing": r"the following arguments are required: (?P<name>.+)",
    "without_value": r"argument (?:-c/)?(?P<name>\S+): expected one argument",
    "no_class": r"No module named|module '.+' has no attribute"
    r"|(?:Expected a dot import path string|Unexpected import path format): (?P<name>.+)",
    "other_class": r"(?:Import path does not correspond to a|Not a valid) subclass of (?P<name>\w+)",
    "no_reference": r"Interpolation key '(?P<name>.+)' not found",
    "no_variable": r"Environment variable '(?P<name>.+)' not found",
    "value": r"Expected an? (?!<class 'NoneType')(?P<name>(?:typing|<class|list|dict|tuple).+?)(?:\. Got value: .*)?$",
}
"""Kinds of lines; each is a method of `_Refusal`."""


class Fault(NamedTuple):
    """A line of a message that says what is wrong.

    Attributes:
        kind: a key of `FAULTS`.
        name: what the line names.
        key: where, as a user would type it.
        class_path: of the class whose argument that is; empty: the command's own.
    """

    kind: str
    name: str
    key: str
    class_path: str


Sources = Sequence[tuple[str, Mapping[str, Any]]]
"""Each file and option of a command, in order, with the values that it sets by key as it is typed."""


def diagnose(error: Exception, parser: ArgumentParser, sources: Sources) -> InputError:
    """The error to show for settings that the parser refused with ``error``."""
    faults = list(_faults(str(error)))
    fault = next((one for one in faults if one.kind != "value"), faults[0] if faults else None)
    if fault:
        return getattr(_Refusal(str(error), faults, fault, parser, sources), fault.kind)()
    lines = [line.strip(" -:") for line in str(error).splitlines() if line.strip(" -")]
    said = [line for line in lines[1:] if len(line) < LONG]
    return InputError(said[-1] if said else lines[0], where=lines[0] if said else None, remedy=SEE)


@dataclass
class _Refusal:
    """Settings that were refused.

    Attributes:
        message: the parser's.
        faults, fault: what it says is wrong, and the one to report.
        parser: of the command.
        sources: where settings come from.
    """

    message: str
    faults: list[Fault]
    fault: Fault
    parser: ArgumentParser
    sources: Sources

    def unknown(self) -> InputError:
        key, class_name = self.fault.key, self.fault.class_path.rpartition(".")[2]
        unknown = f"{key}.{short(self.fault.name)}".lstrip(".").removesuffix(".class_path")
        if number := next((part for part in unknown.split(".") if part.isdigit()), None):
            remedy = "leave the number out for the last item, or give the whole list"
            return InputError(f"item {number} of a list cannot be set alone", where=self._source(key), remedy=remedy)
        if class_name in UNNAMED:
            where = next((name for name, given in self.sources if _sets(given, unknown)), None)
            remedy = f"name the class first: {GIVEN_BY['model'] if key in GIVEN_BY else f'--{key} CLASS'}"
            if key == "data" and where and not where.startswith("-"):
                remedy = "a log's YAML comes after the stage's: recalign fit recommender LOG"
            return InputError(f"{key} has values but no class yet", where=where, remedy=remedy)
        if new := next((new for old, new in RENAMED.items() if f"{unknown}.".startswith(f"{old}.")), None):
            what = f"{unknown!r} is called {new} now"
            return InputError(what, where=self._source(unknown), remedy=f"write {new}, with the same keys below it")
        near = nearest(unknown, (one for one in self._known if not unknown.startswith(f"{one}.")))
        above = unknown.rpartition(".")[0]
        beside = sorted(one for one in self._known if one.startswith(above) and one != above) or sorted(self._known)
        given = {key.split(".")[0] for _, given in self.sources for key in given}
        other = (text for one, text in OTHER_COMMAND.items() if one in given and one not in self._known)
        remedy = next(other, f"did you mean {near}?" if near else f"there are: {', '.join(beside)}")
        return InputError(f"there is no key {unknown!r}", where=self._source(unknown), remedy=remedy)

    def unrecognized(self) -> InputError:
        first = self.fault.name.split(" ")[0]
        if first.startswith("-"):
            self.fault = self.fault._replace(name=first.lstrip("-").split("=")[0])
            return self.unknown()
        remedy = "names of YAML come first, and options begin with --"
        remedy = f"did you mean --config {first}?" if first.endswith((".yaml", ".yml", ".json")) else remedy
        return InputError(f"unexpected word {first!r}", remedy=remedy)

    def missing(self) -> InputError:
        keys = [f"{self.fault.key}.{name}".lstrip(".") for name in self.fault.name.split(", ")]
        write = f"write --{keys[0]} VALUE, or set it in a YAML"
        given = (text.format(command=self.parser.prog) for key, text in GIVEN_BY.items() if key in keys)
        remedy = next((f"name {text}" for text in given), write)
        return InputError(f"{', '.join(keys)} must be given", remedy=remedy)

    def without_value(self) -> InputError:
        below = [(one, given) for one, given in self.sources if f"{one}.".startswith(f"{self.fault.name}.")]
        lacking = (one for one, given in below for value in given.values() if value is None or value.startswith("-"))
        name = next(lacking, self.fault.name)
        remedy = f"write {name} VALUE, or {name}=VALUE if it begins with a dash"
        return InputError("a value must follow", where=name, remedy=remedy)

    def no_class(self) -> InputError:
        path = self.fault.name or self.fault.class_path
        inner = [one for _, given in self.sources for one in given if one.startswith(f"{self.fault.key}.")]
        if inner and not PATH.fullmatch(path):
            remedy = f"set what it takes: --{inner[-1]} VALUE"
            return InputError(f"{path!r} is no value of it", where=self._place, remedy=remedy)
        names = [] if "." in path else fitting(self.fault.class_path, self.fault.key.rpartition(".")[2])
        near = nearest(path, names) if names else nearest_import(path)
        other = f"there are: {', '.join(names)}" if names else "give the full import path of a class"
        remedy = f"did you mean {near}?" if near else other
        return InputError(f"there is no class {path!r}", where=self._place, remedy=remedy)

    def other_class(self) -> InputError:
        what = f"{self.fault.class_path or self._value} is not a class that can stand here"
        return InputError(what, where=self._place, remedy=f"give a {self.fault.name}")

    def no_reference(self) -> InputError:
        name = self.fault.name
        near = nearest(short(name), self._known)
        if near and near.split(".")[0] in ("model", "data"):
            near = near.replace(".", ".init_args.", 1)
        remedy = f"did you mean ${{{near}}}?" if near else "name a key that is set, such as ${model.lr}"
        return InputError(f"${{{name}}} points to nothing", where=self._named_by(f"${{{name}}}"), remedy=remedy)

    def no_variable(self) -> InputError:
        name = self.fault.name
        remedy = f"set it, or say what to use instead: ${{oc.env:{name},VALUE}}"
        where = self._named_by(f"${{oc.env:{name}}}")
        return InputError(f"there is no environment variable {name!r}", where=where, remedy=remedy)

    def value(self) -> InputError:
        hints = [one.name for one in self.faults if (one.kind, one.key) == ("value", self.fault.key)]
        literals = [hint.removeprefix("typing.Literal") for hint in hints if hint.startswith("typing.Literal")]
        choices = [str(one) for literal in literals for one in literal_eval(literal)]
        kinds = [hint.removeprefix("<class '").removesuffix("'>") for hint in hints]
        shown = _as_typed(self._value)
        what = f"must be {' or '.join(kinds)}, not {shown}"
        what = f"{shown} is none of {', '.join(choices)}" if choices else what
        remedy = f"give one of them, or {SEE}" if choices else "give such a value"
        if "list" in kinds and not self._value.startswith("["):
            remedy = f"give a list: [{self._value}]"
        elif near := nearest(self._value, choices):
            remedy = f"did you mean {near}?"
        return InputError(what, where=self._place, remedy=remedy)

    @property
    def _value(self) -> str:
        """The value that was refused."""
        found = re.findall(r"(?:Got|Given) value: (.*)|Expected a path but (\S+)", self.message)
        return next(("".join(one) for one in found), "")

    @property
    def _place(self) -> str:
        """The key, after the file that it stands in."""
        source, key = self._source(self.fault.key), self.fault.key
        return key if source is None or source.startswith("-") else f"{source}, {key}"

    def _named_by(self, reference: str) -> str | None:
        """The key whose value holds some text."""
        return next((key for _, given in self.sources for key, one in given.items() if reference in str(one)), None)

    def _source(self, key: str) -> str | None:
        """The last file or option that sets a key."""
        return next((name for name, given in reversed(self.sources) if _sets(given, key)), None)

    @cached_property
    def _known(self) -> set[str]:
        """Every key that may be set, of the classes that are named."""
        named = {key.removesuffix(".class_path"): one for _, given in self.sources for key, one in given.items()}
        named |= {self.fault.key: self.fault.class_path}
        known = set(map(short, self.parser.get_defaults().keys())) - {"config"}
        return known | {f"{key}.{name}" for key, one in named.items() for name in _arguments(str(one))}


def _sets(given: Mapping[str, Any], key: str) -> bool:
    return any(f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.") for one in given)


def _faults(message: str) -> Iterator[Fault]:
    above: list[tuple[int, str, str]] = []
    for line in filter(str.strip, message.splitlines()):
        text, depth = line.lstrip(" -"), len(line) - len(line.lstrip())
        above = [one for one in above if one[0] < depth]
        for branch, pattern in BRANCHES.items():
            if match := re.match(pattern, text):
                above.append((depth, branch, match[1]))
        for kind, pattern in FAULTS.items():
            if match := re.search(pattern, text):
                names = filter(None, match.groupdict().values())
                keys = [short(name) for _, branch, name in above if branch == "key"]
                classes = [name for _, branch, name in above if branch == "class_path"]
                yield Fault(kind, ".".join(names), ".".join(keys), classes[-1] if classes else "")
                break


@cache
def _arguments(class_path: str) -> list[str]:
    """The arguments of a class, dotted where they are those of a dataclass."""
    try:
        kind = imported(class_path)
    except (ImportError, AttributeError, ValueError):
        return []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, sub_configs=True, fail_untyped=False)
    return list(parser.get_defaults().keys())


def _as_typed(text: str) -> str:
    """Text in quotes; a number, a list and the like as they are."""
    try:
        literal_eval(text)
    except (ValueError, SyntaxError):
        return repr(text)
    return text
