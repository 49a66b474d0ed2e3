"""Artifacts of a trained stage in W&B: the log and the checkpoints that it started from, and the one it hands over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from recalign.files import read_json
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.manifest import Manifest


def log_artifacts(run: Any, folder: RunFolder, manifest: Manifest) -> None:
    """Log what a stage used and made.

    Online, W&B draws the lineage. Offline it knows none: each artifact's metadata names what it was made from. Of the
    log only digest, users' group and their number leave the machine.
    """
    facts = {"fingerprint": manifest.fingerprint, "users": manifest.users}
    used = [_described(manifest.log, facts)]
    used += [_checkpoint(Path(one["path"]), one["sha256"], {}) for one in manifest.upstream.values()]
    if not run.offline:
        for artifact in used:
            run.use_artifact(artifact)
    made = {"log": manifest.log, **facts, "upstream": manifest.upstream}
    if manifest.checkpoint:
        run.log_artifact(_checkpoint(folder.path / manifest.checkpoint, manifest.digests[manifest.checkpoint], made))
    if trust := read_json(folder.trust):
        _log_trust(run, trust)


def wandb_name(name: str) -> str:
    """A name that W&B takes for an artifact."""
    return re.sub(r"[^\w.-]", "_", name)


def _described(log: str, facts: dict[str, Any]) -> Any:
    import wandb

    artifact = wandb.Artifact(wandb_name(log), type="log", metadata=facts)
    with artifact.new_file("log.json") as file:
        json.dump(facts, file)
    return artifact


def _checkpoint(path: Path, sha256: str, made_from: dict[str, Any]) -> Any:
    import wandb

    # chain, stage and seed of its run folder; else the file's own name
    run = path.resolve().parents[1]
    parts = (*RunFolder(run).placed, run.name) if path.parent.name == "checkpoints" else (path.stem,)
    artifact = wandb.Artifact(wandb_name("-".join(parts)), type="model", metadata={"sha256": sha256, **made_from})
    artifact.add_file(str(path), policy="immutable", skip_cache=True)  # no copy of it on this machine
    return artifact


def _log_trust(run: Any, trust: dict[str, Any]) -> None:
    """The verdict on a reward model or a judge, and its calibration: what was predicted and what was observed."""
    import wandb

    run.summary["trust/verdict"] = trust["verdict"]
    if bins := trust[trust["judged_on"]]["calibration"]["bins"]:
        curve = wandb.Table(columns=list(bins[0]), data=[list(one.values()) for one in bins])
        run.log({"trust/calibration": wandb.plot.line(curve, "predicted", "observed", title="calibration")})
