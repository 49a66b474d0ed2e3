"""Merge the files and options of a command into one nested dictionary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from recalign.errors import InputError, nearest
from recalign.keys import leaves, short
from recalign.stage.classes import arguments_of, find_class

CLASS = ("class_path", "init_args", "dict_kwargs")
FILE_TYPES = (".yaml", ".yml", ".json")

Settings = dict[str, Any]


def read(words: Sequence[str], own: bool = False) -> Settings:
    """Read the settings in a command's words; later ones override earlier ones.

    A later file's values under ``data`` replace an earlier file's whole: a log's YAML must not inherit what it does not
    mention (a row filter, a time unit) from the log that the stage's YAML names.

    Args:
        words: options, ``--config FILE`` among them.
        own: whether ``data`` may be set before its class: commands that are not stages know its class.

    Raises:
        InputError: a file that cannot be read, an option without a value, a word that is no option, or a log's YAML
            before the stage's.
    """
    settings: Settings = {}
    for source, given, is_file in sources(words):
        settings = lay_file(settings, given, source, own) if is_file else merge(settings, given)
    return settings


def lay_file(settings: Settings, content: Settings, source: str, own: bool = False) -> Settings:
    """Merge a file into settings; its values under ``data`` replace those that were there. ``own`` is as for `read`.

    Raises:
        InputError: it is a log's YAML before the stage's.
    """
    is_log = isinstance(content.get("data"), dict) and "class_path" not in content["data"]
    if is_log and not own and "class_path" not in settings.get("data", {}):
        raise InputError(
            "data has values but no class yet",
            where=source,
            remedy="a log's YAML comes after the stage's: recalign fit recommender LOG",
        )
    return merge(_without_replaced(settings, content), content)


def only_shows(words: Sequence[str]) -> list[str]:
    """The words that ask to show something instead of running: help, a class's help, the configuration."""
    shown: list[str] = []
    for number, word in enumerate(words):
        option, equals, _ = word.partition("=")
        if option in ("-h", "--help", "--print_config"):
            shown.append(word)
        elif option.startswith("--") and option.endswith(".help"):
            shown += words[number : number + (1 if equals else 2)]
    return shown


def sources(words: Sequence[str]) -> Iterator[tuple[str, Settings, bool]]:
    """Each file and option: its name, what it sets, and whether it is a file."""
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            remedy = "names of YAML come first, and options begin with --"
            remedy = f"did you mean --config {word}?" if word.endswith(FILE_TYPES) else remedy
            raise InputError(f"unexpected word {word!r}", remedy=remedy)
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):
                raise InputError("a value must follow", where=option, remedy=f"write {option} VALUE")
        if option in ("--config", "-c"):
            yield value, load(Path(value)), True
        else:
            yield option, nested(option.lstrip("-"), value), False


def load(path: Path) -> Settings:
    """The settings of a YAML or JSON file.

    Raises:
        InputError: it does not exist, is no YAML, or holds no keys.
    """
    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = [str(one) for one in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(str(path), names)
        remedy = f"did you mean {near}?" if near else "name a YAML file that exists"
        raise InputError("there is no such file", where=str(path), remedy=remedy) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = f"not YAML: {getattr(error, 'problem', error)}"
        raise InputError(what, where=where, remedy="mend that line: `key: value`, or `- item` of a list") from None
    except (OSError, UnicodeDecodeError) as error:
        remedy = "name a YAML file, in UTF-8"
        raise InputError(f"cannot be read: {error}", where=str(path), remedy=remedy) from None
    if not isinstance(content, dict):
        raise InputError("holds no keys", where=str(path), remedy="write `key: value` lines")
    return content


def nested(key: str, value: Any) -> Settings:
    """Nest a value under a dotted key. Text that holds a mapping or a list is parsed.

    Raises:
        InputError: the key counts a list's items.
    """
    if number := next((part for part in key.split(".") if part.isdigit()), None):
        remedy = "leave the number out for the last item, or give the whole list"
        raise InputError(f"item {number} of a list cannot be set alone", where=f"--{key}", remedy=remedy)
    settings = structured(value) if isinstance(value, str) else value
    for part in reversed(key.split(".")):
        settings = {part: settings}
    return settings


def tree(settings: Mapping[str, Any]) -> Settings:
    """Nest settings by dotted key: ``{"model.lr": 0.1}`` -> ``{"model": {"lr": 0.1}}``."""
    found: Settings = {}
    for key, value in settings.items():
        found = merge(found, nested(key, value))
    return found


def structured(text: str) -> Any:
    """Parse text that holds a mapping or a list, or names such a file; return other text as it is."""
    if text.endswith(FILE_TYPES) and Path(text).is_file():
        return load(Path(text))
    if not text.startswith(("{", "[")) or (text.startswith("{") and ":" not in text):  # {a} may be an expression
        return text
    try:
        found = get_loader("yaml")(text)
    except yaml.YAMLError:  # the parser says what is wrong
        return text
    return found if isinstance(found, dict | list) else text


def merge(earlier: Any, later: Any) -> Any:
    """Merge settings into earlier ones.

    A class's arguments may be given without ``init_args``. Another class keeps those of the earlier one's arguments
    that it takes too. ``key+`` appends to a list, and keys under a list are the last item's.
    """
    if isinstance(earlier, list) and isinstance(later, dict) and "class_path" not in later and earlier:
        return [*earlier[:-1], merge(earlier[-1], later)]
    if isinstance(earlier, str) and isinstance(later, dict):
        earlier = {"class_path": earlier}
    if isinstance(earlier, dict) and "class_path" in earlier:
        if isinstance(later, str) and later != "null":
            later = {"class_path": later}
        if isinstance(later, dict):
            later = _as_class(later, earlier["class_path"])
            earlier = _kept(earlier, later["class_path"])
    if not (isinstance(earlier, dict) and isinstance(later, dict)):
        return later
    merged = dict(earlier)
    for key, value in later.items():
        if key.endswith("+"):
            before = merged.get(key[:-1]) or []
            merged[key[:-1]] = [*(before if isinstance(before, list) else [before]), value]
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _as_class(settings: Settings, class_path: str) -> Settings:
    arguments = {key: value for key, value in settings.items() if key not in CLASS}
    inner = settings.get("init_args") or {}
    init_args = merge(arguments, inner) if isinstance(inner, dict) else inner
    named = {key: value for key, value in settings.items() if key in CLASS}
    return {"class_path": class_path, **named, "init_args": init_args}


def _kept(earlier: Settings, class_path: str) -> Settings:
    """The settings of the earlier class that the new one takes too."""
    if class_path == earlier["class_path"]:
        return earlier
    kind = find_class(class_path)
    taken = arguments_of(kind) if kind else {}
    return {"init_args": {key: value for key, value in (earlier.get("init_args") or {}).items() if key in taken}}


def _without_replaced(settings: Settings, given: Settings) -> Settings:
    """Drop what a file's ``data`` replaces whole: logs, and classes that it names."""
    data = given.get("data")
    earlier = settings.get("data", {}).get("init_args") if isinstance(settings.get("data"), dict) else None
    if not isinstance(data, dict) or not isinstance(earlier, dict):
        return settings
    replaced = {
        key
        for key, value in (data.get("init_args") or data).items()
        if isinstance(value, dict) and ("class_path" in value or "class_path" not in (earlier.get(key) or {}))
    }
    kept = {key: value for key, value in earlier.items() if key not in replaced}
    return settings | {"data": settings["data"] | {"init_args": kept}}


def set_keys(settings: Any) -> dict[str, Any]:
    """Values by dotted key as it is typed, without ``init_args``; a class is the value of its own key."""
    return {short(key).removesuffix(".class_path"): value for key, value in leaves(settings).items()}
