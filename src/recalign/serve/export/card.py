"""The model card of a bundle, made from what its run folder knows; in the layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator

from recalign.artifacts import Seal
from recalign.errors import InputError
from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, figure
from recalign.evaluation.findings import verdicts
from recalign.evaluation.sources import Sources
from recalign.files import read_json
from recalign.run.stage.opened import OpenedRun
from recalign.serve.export.verify import SHOWN, Verified
from recalign.serve.server.about import BundleConfig

HEAD = """\
---
library_name: recalign
tags: [recommender-system, sequential-recommendation, recalign]
# license: to be chosen by the owner of the log and of the weights
---
"""
UNFIT = """\
- It answers with items of its own catalogue only; other ids are dropped and counted.
- What it was measured on is one log, with what that log shows of what its users were shown.
- A gain that judges expect is no A/B test.
- Whoever can ask it often learns what the log's users choose together. It holds no user id and no event of the log."""


def of(made: OpenedRun, about: BundleConfig, found: Verified | None) -> str:
    """The card, as Markdown."""
    sections = [
        f"# {made.name}",
        "A generative recommender made by recalign: from what somebody has chosen so far to what to recommend next.",
        "\n".join(_ask(about)),
        "## What it was made of",
        "\n".join(_made_of(made, about)),
        "## How good it is",
        "\n\n".join([*_verified(about, found), *_compared(made)]),
        "## What it must not be used for",
        UNFIT,
    ]
    return HEAD + "\n" + "\n\n".join(sections) + "\n"


def _ask(about: BundleConfig) -> Iterator[str]:
    known = "request_time" in about.inputs
    given = ["items", "times", *(["rewards"] if about.reward else []), *(["time"] if known else [])]
    yield "```python"
    yield "import recalign"
    yield f"recalign.load_bundle({about.version!r}).recommend({{{', '.join(f'{name!r}: ...' for name in given)}}})"
    yield "```"
    yield ""
    unit = "ISO 8601 texts" if about.time_unit == "datetime" else f"numbers of {about.time_unit} since 1970"
    yield f"- Times are {unit}, oldest first; the newest {about.max_length} events are read."
    if about.reward:
        yield f"- Rewards are in the unit of `{about.reward}`."
    if about.collapse:
        counts = "that with the highest reward counts: where one repeats, give rewards"
        yield f"- Of several events of an item, {counts if about.reward else 'the first counts'}."
    if about.where:
        yield f"- Requests must hold only events with `{about.where}`, as the log did."
    if about.drop_repeats:
        yield "- Requests must leave out events that repeat another in all that is known of them, as the log did."
    if about.strength is not None:
        unit = "a standard deviation of what it follows (rewards, or log counts)"
        yield f"- Reranked with a strength of {about.strength:.3g} {unit}, or as asked for."


def _made_of(made: OpenedRun, about: BundleConfig) -> Iterator[str]:
    sequences, manifest = made.data.sequences, read_json(made.folder / "manifest.json")
    sizes = f"{len(sequences.frame):,} events of {sequences.num_users:,} users on {sequences.num_items:,} items"
    yield f"- log: `{about.log}`, {sizes}"
    yield f"- split: `{made.data.split}`; times of requests: `{about.request_time}`"
    yield f"- seed: {made.seed}" + (f"; trained for {manifest['seconds']:.0f} s" if manifest.get("seconds") else "")
    if git := manifest.get("git"):
        yield f"- commit of recalign: `{git['commit']}`{' with changes' if git['dirty'] else ''}"
    for stage, checkpoint in about.made_of.items():
        yield f"- checkpoint of `{stage}`: sha256 `{checkpoint}`"
    yield "- versions: " + ", ".join(f"{name} {number}" for name, number in about.versions.items())


def _verified(about: BundleConfig, found: Verified | None) -> Iterator[str]:
    if found is None:
        yield "The bundle was **not** compared with its policy (`--verify false`)."
        return
    yield (
        f"**Asked as it will be** (all events before a test event, the newest {about.max_length} of them read), "
        f"NDCG@{SHOWN} is **{_interval(found.request)}** over {found.targets:,} test events of {found.users:,} users. "
        f"In evaluation's windows, of `data.max_length` events at most, it is {_interval(found.evaluation)}."
    )
    if found.repeated:
        yield (
            f"{found.repeated:,} of these events are of an item met before. Evaluation ranks it all the same, and a "
            "request leaves it out."
        )
    yield (
        f"In evaluation's windows {found.lists:,} lists of {SHOWN} are exactly the policy's and {found.tied:,} differ "
        f"by ties alone (log-probabilities within {found.tolerance:g}); no log-probability differs by more than "
        f"{found.difference:.1e}."
    )


def _compared(made: OpenedRun) -> Iterator[str]:
    try:
        sources = Sources.of(made.chain)
    except InputError:
        yield "No chain compared it with other policies."
        return
    table = sources.table()
    if made.row not in table.methods:
        yield f"The comparison of its chain has no row `{made.row}`."
        return
    key = Seal.read(made.folder / "evaluation").key
    if key and not {key.get("checkpoint"), key.get("start")} & set(made.made_of().values()):
        yield f"The row `{made.row}` of its chain's comparison is another policy."
        return
    if decision := sources.decision:
        about = "" if decision.policy in (None, made.row) else f" This bundle is `{made.row}`."
        yield f"**The chain's decision: {decision.sentence}.**{about}"
        yield "\n".join(f"- {reason}" for reason in filter(None, [decision.first, *decision.because]))
    said = list(verdicts(sources.trust.get("reward", {})))
    if said:
        yield "The reward model: " + " ".join(f"*{verdict}*. {text}" for _, verdict, text in said)
    yield "\n".join(_rows(table, made.row))
    seeds = f"{len(table.seeds)} seed{'s' * (len(table.seeds) != 1)}"
    yield (
        f"Means over {seeds} with 95 % intervals, test events of users A; "
        f"{VALUE}: the mean reward that independent judges expect of the ten items shown."
    )


def _rows(table: ComparisonTable, row: str) -> Iterator[str]:
    metrics = [metric for metric in (ALL, HIGH, VALUE) if metric in table.metrics]
    yield f"| | {' | '.join(metrics)} | NDCG retained |"
    yield "|---" * (len(metrics) + 2) + "|"
    for method in dict.fromkeys([*table.roles.baselines, row]):
        if method in table.methods:
            kept = table.retained(method)
            cells = [*(_cell(metric, table, method) for metric in metrics), "–" if kept != kept else f"{kept:.1%}"]
            yield f"| {f'**{method}**' if method == row else method} | {' | '.join(cells)} |"


def _cell(metric: str, table: ComparisonTable, method: str) -> str:
    cell = table.get(method, metric)
    if cell is None:
        return "–"
    return f"{figure(metric, cell.value)} [{figure(metric, cell.low)}, {figure(metric, cell.high)}]"


def _interval(figures: list[float]) -> str:
    value, low, high = figures
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"
