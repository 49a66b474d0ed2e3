"""Turns the parser's nested complaints into one sentence that names the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from recalign.errors import InputError
from recalign.stage.words import (
    arguments_of,
    bare_classes,
    classless_data,
    config_files,
    known_keys,
    nearest,
    nearest_file,
    nearest_import,
    short,
    source,
)

_CONTEXT = re.compile(r"(?:Parser key \"([^\"]+)\":|Problem with given class_path '([^']+)':)\s*(.*)")
_FRAME = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Expected a path but"
    r"|Not a valid subclass|Subclass types expect|a class path \(str\)|a dict with"
)
_UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: (?P<words>.+)|Option '(?P<option>[^']+)' is not accepted"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<member>[^']+)'"
    r"|Subcommand '[^']+' does not accept option '(?P<top>[^']+)'"
)
_UNKNOWN_CLASS = re.compile(
    r"module '[^']+' has no attribute|No module named '(?P<missing>[^']+)'"
    r"|Expected a dot import path string: (?P<bare>\S+)|Import path (?P<other>.*)does not correspond to a subclass"
)
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_GIVEN_BY = {
    "model": "a stage's YAML: --config conf/recommender.yaml",
    "methods": "a chain's YAML: --config conf/chain/ml-100k.yaml",
    "data": "a log's YAML: --config conf/data/ml-100k.yaml",
}


@dataclass
class _Complaint:
    """What is left of a message of the parser.

    Attributes:
        path: keys from the outside in (``model``, ``encoder``).
        owner: class path of the innermost class whose argument is meant.
        reasons: lines that say what is wrong.
        value: the value that was found, as the parser prints it.
    """

    path: list[str] = field(default_factory=list)
    owner: str | None = None
    reasons: list[str] = field(default_factory=list)
    value: str = ""

    @property
    def key(self) -> str:
        return ".".join(self.path)

    def place(self, argv: Sequence[str]) -> str | None:
        """The key, after the file that it stands in."""
        written = source(self.key, argv)
        return f"{written}, {self.key}" if written and not written.startswith("--") else self.key or None


def explain(message: str, parser: ArgumentParser, argv: Sequence[str]) -> InputError:
    """The error to show for a message of jsonargparse.

    Args:
        message: what jsonargparse says, over many lines.
        parser: whose keys are the ones that may be meant.
        argv: the words that it parsed.
    """
    complaint = _read(message)
    reasons = "\n".join(complaint.reasons) or message
    if found := _UNKNOWN_KEY.search(reasons):
        return _unknown_key(found, complaint, parser, argv)
    if found := _UNKNOWN_CLASS.search(reasons):
        return _unknown_class(found, complaint, argv)
    if found := re.search(r"the following arguments are required: (.+)", reasons):
        return _missing_key(found[1].split(", "), complaint)
    if found := re.search(r"File does not exist: '?([^']+)'?", reasons):
        near = nearest_file(Path(found[1]))
        return InputError("there is no such file", where=found[1], remedy=f"did you mean {near}?" if near else None)
    if "Problems parsing config" in reasons or "Unexpected config" in reasons:
        return _broken_yaml(reasons, argv)
    if "expected one argument" in reasons:
        ends = [a for a, b in pairwise([*argv, "--"]) if a.startswith("--") and b.startswith("--")]
        return InputError("a value must follow", where=next((a for a in ends if "=" not in a), None))
    if found := re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", reasons):
        return _not_among(found[1], re.findall(r"\w+", found[2]), "recalign")
    if wanted := _wanted(complaint.reasons):
        return _wrong_value(wanted, complaint, argv)
    return InputError(" ".join(complaint.reasons) or message, where=complaint.place(argv))


def broken_interpolation(error: Exception, parser: ArgumentParser, argv: Sequence[str]) -> InputError:
    """The error to show for a ``${...}`` that points to nothing.

    Args:
        error: of omegaconf.
        parser, argv: as in `explain`.
    """
    found = re.search(r"resolved to '\w+\.([^']+)'", str(error))
    key = found[1] if found else str(error).splitlines()[0]
    near = nearest(short(key), known_keys(parser, argv))
    if near and near.split(".")[0] in ("model", "data"):
        near = near.replace(".", ".init_args.", 1)
    return InputError(
        f"${{{key}}} points to nothing",
        where=(getattr(error, "full_key", None) or "").partition(".")[2] or None,
        remedy=f"did you mean ${{{near}}}?" if near else None,
    )


def _read(message: str) -> _Complaint:
    complaint = _Complaint()
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if context := _CONTEXT.match(text):
            key, owner, text = context.groups()
            complaint.path += [key] if key else []
            complaint.owner = owner or complaint.owner
        if value := _VALUE.search(text):
            complaint.value = complaint.value or value[1]
            text = text[: value.start()].strip().removesuffix(".")
        if text and not _FRAME.match(text):
            complaint.reasons.append(text)
    return complaint


def _unknown_key(
    found: re.Match[str], complaint: _Complaint, parser: ArgumentParser, argv: Sequence[str]
) -> InputError:
    word = (found["words"] or "").split()[0] if found["words"] else ""
    if word and not word.startswith("-"):
        is_file = word.endswith((".yaml", ".yml"))
        remedy = f"did you mean --config {word}?" if is_file else "options begin with --"
        return InputError(f"unexpected word {word!r}", remedy=remedy)
    tail = f"{found['group']}.{found['member']}" if found["group"] else found["option"] or found["top"]
    key = short(".".join([*complaint.path, tail or word.lstrip("-").split("=")[0]]))
    known = known_keys(parser, argv)
    if complaint.owner:
        known |= arguments_of(complaint.owner, complaint.key)
    part, level = key.split(".")[0], key.rpartition(".")[0]
    early = classless_data(argv)
    waiting = early or key in known or (part in ("model", "data") and complaint.owner is None and not found["words"])
    if waiting and "model" in known:  # other commands than a stage's have no class to wait for
        return InputError(
            f"{part} has values but no class yet",
            where=str(early) if early else source(key, argv),
            remedy="a log's YAML comes after the stage's: --config conf/recommender.yaml --config conf/data/LOG.yaml",
        )
    near = nearest(key, known)
    siblings = sorted(k for k in known if k.rpartition(".")[0] == level)
    return InputError(
        f"there is no key {key!r}",
        where=source(key, argv),
        remedy=f"did you mean {near}?" if near else f"there are: {', '.join(siblings)}",
    )


def _unknown_class(found: re.Match[str], complaint: _Complaint, argv: Sequence[str]) -> InputError:
    place = complaint.place(argv)
    if found["other"] is not None:
        given = found["other"].strip() or complaint.value
        return InputError(f"{given} is not a class that can stand here", where=place)
    if found["bare"]:
        wrong, near = found["bare"], nearest(found["bare"], bare_classes())
    else:
        wrong = complaint.owner or found["missing"] or complaint.value
        near = nearest_import(wrong)
    remedy = f"did you mean {near}?" if near else "give the full import path of a class"
    return InputError(f"there is no class {wrong!r}", where=place, remedy=remedy)


def _missing_key(keys: list[str], complaint: _Complaint) -> InputError:
    top = [re.sub(r"^(fit|validate|test|predict)\.", "", key) for key in keys]
    missing = [".".join([*complaint.path, key]) for key in top]
    remedy = next((f"name {text}" for key, text in _GIVEN_BY.items() if key in missing), None)
    return InputError(f"{', '.join(missing)} must be given", remedy=remedy)


def _broken_yaml(reasons: str, argv: Sequence[str]) -> InputError:
    for path in config_files(argv):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            at = f"{path}, line {mark.line + 1}" if mark else str(path)
            return InputError(f"not YAML: {getattr(error, 'problem', error)}", where=at)
        if not isinstance(content, dict):
            return InputError("holds no keys", where=str(path), remedy="write `key: value` lines")
    return InputError(reasons)


def _wanted(reasons: Iterable[str]) -> list[str]:
    """Types and choices (quoted) that the parser would have taken, in its order."""
    wanted: list[str] = []
    for reason in reasons:
        if choices := re.search(r"typing\.Literal\[(.+?)\]", reason):
            wanted += choices[1].split(", ")
        elif kind := re.search(r"Expected a (?:<class '([^']+)'>|(\S+))", reason):
            wanted.append((kind[1] or kind[2]).removeprefix("typing."))
    return list(dict.fromkeys(wanted))


def _wrong_value(wanted: list[str], complaint: _Complaint, argv: Sequence[str]) -> InputError:
    nested = re.search(r"NestedArg\(key='[^']*', val=(.*)\)", complaint.value)
    value = (nested[1] if nested else complaint.value).strip("'")
    choices = [w.strip("'") for w in wanted if w.startswith("'")]
    if choices:
        return _not_among(value, choices, complaint.place(argv))
    return InputError(f"must be {' or '.join(wanted)}, not {value!r}", where=complaint.place(argv))


def _not_among(value: str, choices: list[str], where: str | None) -> InputError:
    near = nearest(value, choices)
    remedy = f"did you mean {near}?" if near else None
    return InputError(f"{value!r} is none of {', '.join(choices)}", where=where, remedy=remedy)
