"""`recalign check`, `recalign prepare` and `recalign recommend`."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import torch
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recalign.errors import InputError, printable, require_positive
from recalign.evaluation.reranking import base_method, is_reranked, served
from recalign.events import render
from recalign.recommender.checkpoint import load_net
from recalign.recommender.policy import Policy
from recalign.recommender.serving import recommend as answered
from recalign.recommender.serving import require_users
from recalign.recommender.training import RECOMMENDATIONS, write_parquet
from recalign.reward import RewardData
from recalign.sequences import EventDataModule
from recalign.sequences.audit import audit_log
from recalign.sequences.verdict import verdict
from recalign.stage import RunFolder, parse_stage
from recalign.stage.record import final_checkpoint


def check(*, data: EventDataModule, strict: bool = False) -> None:
    """Print whether a log may be trained on, what it holds and how it is divided, before any training.

    Args:
        data: the log, its reward and its split; name its YAML: recalign check ml-100k.
        strict: exits with 1 unless the log is usable without care.
    """
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    print(said, data.report, render(sections), sep="\n\n")
    if strict and said.concerns:
        sys.exit(1)


def prepare(*, data: EventDataModule, partitions: int | None = None, workers: int = 1) -> None:
    """Prepare a log that is larger than memory; what trains on it afterwards maps it from the cache.

    Args:
        data: the log, its reward and its split; name its YAML: recalign prepare my-log.yaml.
        partitions: of the users, about; each has to fit in memory, once a worker. Null: one for 4 million rows.
        workers: processes that work on partitions side by side.
    """
    print(data.prepare(partitions, workers))
    print(f"prepared: {data.entry}")


def recommend(
    run: Path,
    users: str | list[str] | None = None,
    k: int = 10,
    codes: Path | None = None,
    as_list: bool = False,
) -> None:
    """Print recommendations after the log's end, as a table.

    Args:
        run: the run folder of a policy, such as runs/ml-100k/asft/seed-0, or of a reranked row of a chain, such as
            runs/ml-100k/rerank/seed-0; its recommendations.parquet is written anew and holds all users', with codes
            and as_list as asked here.
        users: raw ids of the users to show, as the log has them, such as [1, 7] or [0104257]; null: the first five.
        k: items a user.
        codes: for a policy over semantic ids, a file that recalign tokenize --append wrote; its new items are
            recommended too. This, as_list and a reranked row run on the CPU.
        as_list: whether each item is chosen as if the user had chosen those before it.
    """
    require_positive("", {"k": k}, "k")
    reranked = is_reranked(run.absolute().parent.name) and not RunFolder(run).config.is_file()
    policy, data, device = _reranked(run) if reranked else _trained(run)
    ids = yaml.load(users, yaml.BaseLoader) if isinstance(users, str) else users  # as text: 0104257 is no octal number
    known = data.sequences.users
    shown = require_users([ids] if isinstance(ids, str) else ids, known) if ids else known[:5]
    device = torch.device("cpu") if codes or as_list else device
    frame = answered(policy.to(device), data, k=k, codes=codes, as_list=as_list)
    write_parquet(frame, run / RECOMMENDATIONS)
    kind = f"{' as lists' if as_list else ''}{f' with the new items of {codes}' if codes else ''}"
    made = f"made on the {'CPU' if device.type == 'cpu' else 'GPU'}"
    print(f"recommendations{kind} for {len(known):,} users, {made}: {run / RECOMMENDATIONS}")
    name = "title" if "title" in frame.columns else "item"
    table = Table("user", "rank", name, "score")
    for row in frame.filter(pl.col("user").is_in(shown.implode())).select("user", "rank", name, "score").iter_rows():
        user, rank, item, score = row
        table.add_row(escape(printable(str(user))), str(rank), escape(printable(str(item))), f"{score:.2f}")
    Console().print(table)


def _trained(run: Path) -> tuple[Policy, EventDataModule, torch.device]:
    """The policy of a run, its log, and the device that it is configured for.

    Raises:
        InputError: there is no run, its stage recommends nothing, or the log is not the policy's.
    """
    remedy = "name the run folder of a policy: runs/<chain>/<method>/seed-<n>"
    config, checkpoint = RunFolder(run).config, final_checkpoint(RunFolder(run))
    if not config.is_file():
        raise InputError("there is no run in this folder", where=str(run), remedy=remedy)
    model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    if "top_k" not in model["init_args"]:
        raise InputError(f"a run of {model['class_path']}, which recommends nothing", where=str(run), remedy=remedy)
    if checkpoint is None:
        raise InputError("there is no checkpoint in this run", where=str(run), remedy="continue it, or run it again")
    stage = parse_stage(["predict", f"--config={config}", f"--ckpt_path={checkpoint}"])
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    loaded = load_net(checkpoint, "policy")
    loaded.check(data)
    return loaded.net.eval(), data, stage.bare_trainer().strategy.root_device


def _reranked(run: Path) -> tuple[Policy, EventDataModule, torch.device]:
    """The policy of a reranked row, its log, and the device that it runs on.

    Raises:
        InputError: a stage that it rests on is missing, or the row is not as it was evaluated.
    """
    row, seed = run.absolute().parts[-2:]
    own = base_method(row)
    if not run.is_dir():
        remedy = "name the folder of a row that a chain evaluated: runs/<chain>/<row>/seed-<n>"
        raise InputError("there is no such folder", where=str(run), remedy=remedy)
    folders = {name: RunFolder(run.absolute().parents[1] / name / seed) for name in ("recommender", "reward")}
    folders |= {own: RunFolder(run.absolute().parents[1] / own / seed)} if own else {}
    checkpoints = {name: final_checkpoint(folder) for name, folder in folders.items()}
    if lacking := [name for name, path in checkpoints.items() if path is None]:
        what = f"{row} reranks by runs beside it, and there is none of {', '.join(lacking)}"
        raise InputError(what, where=str(run), remedy="keep them in the chain's folder, or run the chain again")
    start = checkpoints["recommender"]
    stage = parse_stage(["fit", f"--config={folders['reward'].config}", f"--model.init_from={start}"])
    data: RewardData = stage.datamodule()  # type: ignore[assignment]
    policy = served(run.absolute(), {name: path for name, path in checkpoints.items() if path}, data)
    return policy, data, torch.device("cpu")
