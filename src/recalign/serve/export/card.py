"""The model card of a bundle, made from the files of its run, in the layout of the Hugging Face Hub."""

from __future__ import annotations

from recalign.errors import InputError
from recalign.evaluation.answer import heading
from recalign.evaluation.sources import Sources
from recalign.evaluation.value import TOP_K
from recalign.files import read_json
from recalign.run.stage.opened import OpenedRun
from recalign.seals import Seal
from recalign.serve.export.verify import Verified
from recalign.serve.server.about import BundleConfig

TEMPLATE = """\
---
library_name: recalign
tags: [recommender-system, sequential-recommendation, recalign]
# license: to be chosen by the owner of the log and of the weights
---

# {name}

A generative recommender made by recalign: from what somebody has chosen so far to what to recommend next.

```python
import recalign
recalign.load_bundle({version!r}).recommend({{{request}}})
```

{asked}

## What it was made of

{made_of}

## How good it is

{quality}

## What it must not be used for

- It answers with items of its own catalogue only; other ids are dropped and counted.
- What it was measured on is one log, with what that log shows of what its users were shown.
- A gain that judges expect is no A/B test.
- Whoever can ask it often learns what the log's users choose together. It holds no user id and no event of the log.
"""


def render(run: OpenedRun, about: BundleConfig, found: Verified | None) -> str:
    """The card, as Markdown."""
    request = {"items": True, "times": True, "rewards": about.reward, "time": "request_time" in about.inputs}
    unit = "ISO 8601 texts" if about.time_unit == "datetime" else f"numbers of {about.time_unit} since 1970"
    counts = "that with the highest reward counts: where one repeats, give rewards"
    asked = {
        f"Times are {unit}, oldest first; the newest {about.max_length} events are read.": True,
        f"Rewards are in the unit of `{about.reward}`.": about.reward,
        f"Of several events of an item, {counts if about.reward else 'the first counts'}.": about.collapse,
        f"Requests must hold only events with `{about.where}`, as the log did.": about.where,
        "Requests must leave out events that repeat another in all that is known of them, as the log did.": (
            about.drop_repeats
        ),
        f"Reranked with a strength of {about.strength or 0:.3g} a standard deviation of what it follows (rewards, or "
        "log counts), or as asked for.": about.strength is not None,
    }
    sequences, manifest = run.data.sequences, read_json(run.folder / "manifest.json")
    made_of = {
        "log": f"`{about.log}`, {len(sequences.frame):,} events of {sequences.num_users:,} users on "
        f"{sequences.num_items:,} items",
        "split": f"`{run.data.split}`; times of requests: `{about.request_time}`",
        "seed": run.seed,
        "seconds of training": manifest.get("seconds") and round(manifest["seconds"]),
        "commit of recalign": manifest.get("git") and "`{commit}`, with changes: {dirty}".format(**manifest["git"]),
        **{f"checkpoint of `{stage}`": f"sha256 `{checkpoint}`" for stage, checkpoint in about.made_of.items()},
        "versions": ", ".join(f"{name} {number}" for name, number in about.versions.items()),
    }
    return TEMPLATE.format(
        name=run.name,
        version=about.version,
        request=", ".join(f"{name!r}: ..." for name, read in request.items() if read),
        asked="\n".join(f"- {text}" for text, holds in asked.items() if holds),
        made_of="\n".join(f"- {name}: {value}" for name, value in made_of.items() if value is not None),
        quality=f"{_verified(about, found)}\n\n{_compared(run)}",
    )


def _verified(about: BundleConfig, found: Verified | None) -> str:
    if found is None:
        return "The bundle was **not** compared with its policy (`--verify false`)."
    return (
        f"**Asked as it will be** (all events before a test event, the newest {about.max_length} of them read), "
        f"NDCG@{TOP_K} is **{{:.4f}} [{{:.4f}}, {{:.4f}}]** over {found.targets:,} test events of {found.users:,} "
        f"users. {found.repeated:,} of these are of an item met before: evaluation ranks it all the same, and a "
        "request leaves it out. In evaluation's windows, of `data.max_length` events at most, it is "
        f"{{:.4f}} [{{:.4f}}, {{:.4f}}]; {found.lists:,} lists of {TOP_K} are exactly the policy's, {found.tied:,} "
        f"differ by ties alone (log-probabilities within {found.tolerance:g}), and no log-probability differs by more "
        f"than {found.difference:.1e}."
    ).format(*found.request, *found.evaluation)


def _compared(run: OpenedRun) -> str:
    try:
        sources = Sources.of(run.chain)
    except InputError:
        return "No chain compared it with other policies."
    if run.row not in sources.table().methods:
        return f"The comparison of its chain has no row `{run.row}`."
    key = Seal.read(run.folder / "evaluation").key
    if key and not {key.get("checkpoint"), key.get("start")} & set(run.made_of().values()):
        return f"The row `{run.row}` of its chain's comparison is another policy."
    if (decision := sources.decision) is None:
        return "Its chain measured baselines alone."
    about = "" if decision.policy in (None, run.row) else f" This bundle is `{run.row}`."
    reasons = "".join(f"\n- {reason}" for reason in filter(None, [decision.caveat_text, *decision.reasons]))
    return f"**The chain's decision: {heading(decision, sources.trust)}.**{about}\n{reasons}"
