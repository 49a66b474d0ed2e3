"""Find YAML files by path or name: the user's own first, then the shipped ones."""

from __future__ import annotations

from pathlib import Path

from recalign.errors import InputError, nearest

_FOLDERS = {
    "stages": "stages before post-training (recalign fit NAME; tokens: recalign tokenize)",
    "methods": "post-training methods (recalign fit NAME)",
    "chains": "chains (recalign chain NAME)",
    "logs": "logs (recalign check NAME, or after a stage: recalign fit asft NAME)",
    "logs/rewards": "candidate rewards of a log (recalign rewards LOG rewards/LOG)",
    "logs/recommender": "what HSTU needs on a log (fit recommender LOG recommender/LOG)",
    "logs/recommender-onerec": "what OneRec needs on a log (fit recommender-onerec LOG recommender-onerec/LOG)",
    "trainer": "presets of the trainer (after a stage: recalign fit asft NAME)",
    "": "settings that recalign chain and tune search",
    "sweep": "sweeps of Weights & Biases (wandb sweep conf/sweep/NAME.yaml)",
}
"""Folders of the shipped YAML, in listing order."""
STAGES = ("stages", "methods")
"""Folders of the YAML that `recalign fit` takes."""


def shipped() -> Path:
    """Folder of the shipped YAML: ``recalign/conf`` of a wheel, the repository's ``conf`` of a checkout."""
    package = Path(__file__).parents[1]
    return inside if (inside := package / "conf").is_dir() else package.parents[1] / "conf"


def names() -> list[str]:
    """Names of the shipped YAML, such as ``search``, ``methods/dpo`` and ``chains/ml-100k``."""
    return sorted(path.relative_to(shipped()).with_suffix("").as_posix() for path in shipped().rglob("*.yaml"))


def find(name: str, kind: str = "") -> Path:
    """Find a YAML file.

    A path that exists comes first, then ``conf/`` of the current folder, then the shipped files.

    Args:
        name: a path, or a name: ``asft``, ``dpo``, ``chains/ml-100k``.
        kind: folder to search first: ``chains``, ``logs``; empty: none.

    Raises:
        InputError: there is no such file.
    """
    if (path := Path(name)).is_file():
        return path
    for conf in (Path("conf"), shipped()):
        for folder in (kind, "", *STAGES):
            path = conf / folder / f"{name}.yaml"
            if path.is_file() and path.stat().st_size:  # empty while `recalign configs` writes it
                return path
    same = [one for one in names() if one.endswith(f"/{name}")]
    if len(same) == 1:
        return shipped() / f"{same[0]}.yaml"
    if Path(name).is_dir():
        raise InputError("is a folder", where=name, remedy="name a YAML file in it, such as its config.yaml")
    raise InputError("there is no such file, and no shipped YAML has this name", where=name, remedy=_remedy(name, kind))


def listing() -> str:
    """List the shipped YAML by folder. The first line of each file says what it is for."""
    width = max(map(len, names()))
    rows: dict[str, list[str]] = {folder: [title] for folder, title in _FOLDERS.items()}
    for name in names():
        first, *_ = (shipped() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        rows[name.rpartition("/")[0]].append(f"  {name:<{width}} {first.lstrip('#').strip()}")
    return "\n\n".join(map("\n".join, rows.values()))


def _remedy(name: str, kind: str) -> str:
    folder = Path(name).parent
    ours = (Path(one).name if one.startswith(STAGES) else one for one in names())  # found by this name alone
    known = [*map(str, folder.glob("*.yaml") if folder.is_dir() else ()), *ours]
    meant = nearest(Path(name).stem, (Path(one).stem for one in known))
    near = [one for one in known if Path(one).stem == meant and not one.startswith("sweep/")]  # sweeps are not stages
    near = [one for one in near if kind and str(Path(one).parent) == kind] or near
    return f"did you mean {' or '.join(near)}?" if near else "give a path, or a name that recalign configs lists"
