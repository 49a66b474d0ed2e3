"""Find YAML by path or by name: the user's own first, then what recalign ships."""

from __future__ import annotations

from pathlib import Path

from recalign.errors import InputError, nearest


def shipped() -> Path:
    """Folder of the shipped YAML: ``recalign/conf`` of a wheel, the repository's ``conf`` of a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def names() -> list[str]:
    """Names of the shipped YAML, such as ``asft``, ``posttrain/dpo`` and ``chain/ml-100k``."""
    return sorted(path.relative_to(shipped()).with_suffix("").as_posix() for path in shipped().rglob("*.yaml"))


def find(name: str, kind: str = "") -> Path:
    """Find a YAML file.

    A path that exists comes first, then ``conf/`` of the current folder, then the shipped files.

    Args:
        name: a path, or a name: ``asft``, ``dpo``, ``chain/ml-100k``.
        kind: folder that is searched first: ``chain``, ``data``; empty: none.

    Raises:
        InputError: there is no such file.
    """
    if (path := Path(name)).is_file():
        return path
    for conf in (Path("conf"), shipped()):
        for folder in (kind, "", "posttrain"):
            if (path := conf / folder / f"{name}.yaml").is_file():
                return path
    same = [one for one in names() if one.endswith(f"/{name}")]
    if len(same) == 1 and not kind:
        return shipped() / f"{same[0]}.yaml"
    raise InputError("there is no such file, nor a shipped YAML of this name", where=name, remedy=_remedy(name, kind))


def describe(path: Path) -> str:
    """What a YAML file is for: its first line, a comment."""
    with path.open(encoding="utf-8") as lines:
        return lines.readline().lstrip("#").strip()


def _remedy(name: str, kind: str) -> str:
    folder = Path(name).parent
    beside = folder.glob("*.yaml") if folder.is_dir() else ()
    known = {Path(one).name: one for one in sorted(names(), key=lambda one: one.startswith(f"{kind}/"))}
    known |= {path.stem: str(path) for path in beside}
    meant = nearest(Path(name).name.removesuffix(".yaml"), known)
    return f"did you mean {known[meant]}?" if meant else "recalign configs lists what is shipped; else give a path"
