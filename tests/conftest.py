"""What several rooms' tests share: a small log that is made, not read."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["WANDB_MODE"] = "disabled"  # whatever the one who runs the tests has
os.environ["RECALIGN_CACHE"] = tempfile.mkdtemp(prefix="recalign-tests-[1]-")  # no pattern, though it looks like one

import hypothesis
import numpy as np
import polars as pl
import pytest
import torch

torch.set_num_threads(1)
for profile, examples in {"short": 40, "long": 400}.items():
    hypothesis.settings.register_profile(profile, deadline=None, max_examples=examples)  # a busy machine is no mistake
sys.path.insert(0, str(Path(__file__).parent / "doubles"))  # checkpoints name the doubles by module


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked slow")
    parser.addoption("--long", action="store_true", help="also run the tests that are marked slow or long")
    parser.addoption("--trials", type=float, default=1.0, help="make so many times the trials of each long test")
    parser.addoption("--record", action="store_true", help="write the loss curves of tests/trajectories anew")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")
    if config.getoption("--long") and not hasattr(config, "workerinput"):  # xdist's workers report to the first process
        from trials import TrialCounts

        config.pluginmanager.register(TrialCounts())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = config.getoption("--long")
    for item in items:
        if item.get_closest_marker("long") and not long:
            item.add_marker(pytest.mark.skip(reason=f"{item.name} is long: pytest --long runs it"))
        elif item.get_closest_marker("slow") and not (long or config.getoption("--slow")):
            item.add_marker(pytest.mark.skip(reason="slow: pytest --slow runs it"))


def pytest_collection_finish() -> None:
    """Leave what was imported to itself: the collector would walk through all of torch again and again (an eighth)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["RECALIGN_CACHE"], ignore_errors=True)


@pytest.fixture
def trial(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Report trials of a promise: ``trial("Exact continuation", "SIGKILL", 1)``, for benchmarks/promises."""
    return lambda promise, faults, count=1: record_property("trials", [promise, faults, count])


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local cluster, whose workers find the doubles; it ends with the test."""
    ray = pytest.importorskip("ray")
    paths = [str(Path(__file__).parent / "doubles"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def share(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many trials to make where a long test makes so many; ``--trials 0.1`` asks for a tenth."""
    return lambda count: max(1, round(count * request.config.getoption("--trials")))


def small_log(users: int = 30, items: int = 40, events: int = 20, seed: int = 0) -> pl.DataFrame:
    """A log of ``users * events`` ratings in which tastes are clear: user u likes the items of its own half."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        liked = np.arange(user % 2, items, 2)
        other = np.arange(1 - user % 2, items, 2)
        chosen = np.concatenate(
            [random.choice(liked, events * 3 // 4, replace=False), random.choice(other, events // 4, replace=False)]
        )
        for step, item in enumerate(random.permutation(chosen)):
            good = item % 2 == user % 2
            rows.append(
                (user + 1, int(item) + 1, 4 + int(random.random() < 0.5) if good else 2, 1000 + 60 * step + user)
            )
    frame = pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row")
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


@pytest.fixture(scope="session")
def log_root(tmp_path_factory: pytest.TempPathFactory):
    """A data root with ``small.csv``, and ``tastes.csv``, which has users enough to learn their tastes from."""
    root = tmp_path_factory.mktemp("data")
    small_log().write_csv(root / "small.csv")
    small_log(users=120).write_csv(root / "tastes.csv")
    return root


@pytest.fixture(scope="session")
def cloned(log_root, tmp_path_factory: pytest.TempPathFactory):
    """The checkpoint of a policy cloned from ``tastes.csv``."""
    import small

    from recalign.recommender import Recommender, RecommenderData

    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    folder = tmp_path_factory.mktemp("cloned")
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=5e-3)
    small.fit(module, data, folder, epochs=8)
    return small.saved(module, folder / "policy.ckpt")


@pytest.fixture(scope="session")
def rewarded(log_root, cloned, tmp_path_factory: pytest.TempPathFactory):
    """The checkpoint of a reward model of ``tastes.csv``, on the cloned policy's trunk; trust.json lies beside it."""
    import small

    from recalign.reward import RewardData, RewardModel

    data = small.data_of(RewardData, log_root, "tastes")
    folder = tmp_path_factory.mktemp("rewarded")
    torch.manual_seed(0)
    module = RewardModel(data.num_items, init_from=str(cloned), members=1, lr=5e-3, weight_decay=0.01)
    small.fit(module, data, folder, epochs=40)
    return small.saved(module, folder / "reward.ckpt")


@pytest.fixture(scope="session")
def bundled(log_root, cloned, tmp_path_factory: pytest.TempPathFactory):
    """A folder of versions with one bundle, of the cloned policy; it was compared with that policy."""
    pytest.importorskip("onnxruntime", reason="the bundle's packages are not installed: pip install 'recalign[serve]'")
    pytest.importorskip("onnxscript", reason="the exporter is not installed: pip install 'recalign[serve]'")
    import small

    from recalign.recommender import RecommenderData
    from recalign.recommender.checkpoint import load_net
    from recalign.run.stage.opened import OpenedRun
    from recalign.serve.export.command import bundle_of

    folder = tmp_path_factory.mktemp("bundled")
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    run = folder / "runs" / "tastes" / "recommender" / "seed-0"
    made = OpenedRun(run, load_net(cloned, "policy").net.eval(), data, {"recommender": cloned})
    bundle_of(made, folder / "bundles")
    return folder / "bundles"
