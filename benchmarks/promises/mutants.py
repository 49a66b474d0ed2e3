"""Mutation testing: how many deliberate faults in losses, advantages, metrics, splits and the NDCG budget tests notice.

    pip install cosmic-ray
    python -m benchmarks.promises.mutants [--count 400] [--seed 0] [--survivors]

Draws mutants with cosmic-ray's operators from `TESTS`' modules: two operands swap `+` for `-`, a bound moves by one, a
condition is negated. Each runs against the tests of its own module alone, in a copy of the tree; it is killed if a test
fails, or if a file of tests takes more than `CPU_SECONDS` of processor time. Not drawn: mutants of annotations, of no
valid syntax, those that put bitwise operators for arithmetic ones, which raise at once, and those that put `is` for
`==`, which small numbers and short strings do not notice.

cosmic-ray's own `exec` starts Python and imports torch for every mutant. Here each runs in a fork of one process that
has imported all libraries, but nothing of recalign.

Saves benchmarks/promises/mutants.csv, a row a mutant. `--survivors` runs all but those that were killed there: it
tries survivors again, and continues a run that was interrupted.
Equivalent mutants count neither as killed nor as survivors; benchmarks/promises/mutants_equivalent.csv says why.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gc
import hashlib
import importlib
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.ast
import cosmic_ray.mutating
import cosmic_ray.plugins
import hypothesis
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/promises/mutants.csv"
EQUIVALENT = ROOT / "benchmarks/promises/mutants_equivalent.csv"
CPU_SECONDS = 15  # the slowest file takes a third of it
PYTEST = ["-x", "-o", "addopts=", "--import-mode=importlib", "--assert=plain", "-p", "no:cacheprovider"]
PYTEST += ["-p", "_hypothesis_pytestplugin", "--hypothesis-profile=mutants"]  # no other plugin is loaded
PYTEST += ["-k", "not two_processes"]  # two of them import everything anew
LIBRARIES = (
    "hypothesis.extra.numpy",
    "jsonargparse",
    "lightning.pytorch",
    "matplotlib.pyplot",
    "numpy.testing",
    "omegaconf",
    "scipy.stats",
    "torchmetrics",
    "wandb",
)
LOSSES, STEPS = "posttrain/test_losses", "posttrain/test_steps"
TESTS = {
    "posttrain/weighted": (LOSSES, STEPS),
    "posttrain/pairs": (LOSSES, STEPS),
    "posttrain/actions": (LOSSES, STEPS),
    "posttrain/values": (LOSSES, STEPS),
    "posttrain/ipa": (LOSSES, STEPS),
    "posttrain/data": ("posttrain/test_posttrain_data",),
    "posttrain/keep": ("posttrain/test_keep",),
    "nn/softmax": ("nn/test_softmax",),
    "data/sequences/batch": ("data/sequences/test_windows", "data/sequences/test_batch"),
    "data/sequences/means": ("data/sequences/test_means",),
    "data/sequences/splits": ("data/sequences/test_splits",),
    "data/sequences/windows": ("data/sequences/test_windows",),
    "recommender/rank_metrics": ("recommender/test_rank_metrics",),
    "bootstrap": ("test_bootstrap",),
    "recommender/interpolation": ("recommender/test_interpolation",),
    "recommender/prior": ("recommender/test_prior",),
    "recommender/calibration": ("recommender/test_calibration",),
    "evaluation/popularity": ("evaluation/test_popularity",),
}
"""The modules that are mutated, and the files that test them: quick ones, where others train models."""


class Mutant(NamedTuple):
    """A module with one fault; ``before`` and ``after`` are its first line that differs."""

    module: str
    line: int
    operator: str
    before: str
    after: str
    code: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--survivors", action="store_true", help="run all but those that were killed the last time")
    arguments = parser.parse_args()
    drawn = list(draw(arguments.count, arguments.seed))
    reasons = {tuple(row.values())[:3]: row["reason"] for row in table(EQUIVALENT)}
    killed = [key(row) for row in table(RESULTS) if row["outcome"] == "killed"] if arguments.survivors else []
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        copied(Path(folder))
        if broken := [name for name in sorted({*chain(*TESTS.values())}) if not passes(name)]:
            raise SystemExit(f"these tests fail without a mutant, and would kill every one: {', '.join(broken)}")
        for mutant in drawn:
            row = mutant._asdict()
            code = row.pop("code")
            reason = reasons.get(key(row), "")
            outcome = "equivalent" if reason else "killed" if key(row) in killed else tried(mutant.module, code)
            rows.append({**row, "outcome": outcome, "reason": reason})
            print(f"{len(rows):>4} {outcome:<10} {mutant.module}:{mutant.line}  {mutant.after}", flush=True)
            saved(rows)
    print(summary(rows))


def key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells a mutant from others when lines have moved."""
    return row["module"], row["before"], row["after"]


def draw(count: int, seed: int) -> Iterator[Mutant]:
    """A sample of all mutants of `TESTS`' modules, each program once; a changed line leaves the other ones' draw."""
    sources = {module: (ROOT / f"src/recalign/{module}.py").read_text() for module in TESTS}
    programs = {plain(source) for source in sources.values()}
    places = [(module, *place) for module, source in sources.items() for place in occurrences(source)]
    for module, operator, occurrence, _ in sorted(places, key=lambda place: by_chance(f"{seed} {place[0]} {place[3]}")):
        made = cosmic_ray.plugins.get_operator(operator)()
        code = cosmic_ray.mutating.mutate_code(sources[module], made, occurrence)
        if not (program := plain(code)) or program in programs:
            continue
        programs.add(program)
        lines = zip(sources[module].splitlines(), code.splitlines(), strict=False)
        line, (before, after) = next((n, pair) for n, pair in enumerate(lines, start=1) if pair[0] != pair[1])
        yield Mutant(module, line, operator.removeprefix("core/"), before.strip(), after.strip(), code)
        count -= 1
        if not count:
            return


def by_chance(text: str) -> bytes:
    return hashlib.blake2b(text.encode()).digest()


def occurrences(source: str) -> Iterator[tuple[str, int, str]]:
    """Each operator, the number of the place where it applies, and that place by the text of its line."""
    nodes = list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(source)))
    text = source.splitlines()
    for name in filter(of_one_kind, cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)()
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, ((line, column), _) in enumerate(places):
            yield name, occurrence, f"{name} {text[line - 1][:column]} {text[line - 1][column:]}"


def of_one_kind(operator: str) -> bool:
    """Whether it replaces bitwise operators by bitwise ones, identity by identity, and others by others."""
    kind, *words = operator.split("_")
    special = [word.startswith(("Bit", "Is")) or word.endswith("Shift") for word in words]
    return "Variable" not in kind and (len(words) < 2 or "Unary" in kind or special[0] == special[1])


def plain(code: str) -> str:
    """The program without its annotations; empty if it is none."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def copied(tree: Path) -> None:
    """Copy what the tests need, and let this process and its children import from the copy."""
    for name in ("src", "tests", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for library in LIBRARIES:
        importlib.import_module(library)
    # Few examples, always the same, and none is made smaller: that a test fails is enough.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutants", max_examples=30, derandomize=True, deadline=None, database=None, phases=phases
    )
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(tree)
    gc.freeze()


def tried(module: str, code: str) -> str:
    """``killed`` or ``survived``."""
    path = Path(f"src/recalign/{module}.py")
    whole = path.read_text()
    path.write_text(code)
    try:
        return "survived" if all(map(passes, TESTS[module])) else "killed"
    finally:
        path.write_text(whole)


def passes(name: str) -> bool:
    """Whether a file of tests passes, in a child that forgets what it imported."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os._exit(int(pytest.main([*PYTEST, f"tests/{name}.py"])))
    return os.waitpid(child, 0)[1] == 0


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it is not there. Not with Polars, which cannot be forked once it was used."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def saved(rows: list[dict[str, object]]) -> None:
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(rows: list[dict[str, object]]) -> str:
    counts = Counter(row["outcome"] for row in rows)
    judged = len(rows) - counts["equivalent"]
    return f"{len(rows)} mutants: {dict(counts)}; killed {counts['killed'] / judged:.1%} of those that can be"


if __name__ == "__main__":
    main()
