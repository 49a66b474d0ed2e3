"""What docs/extend.md says one has to write for a weighting or a method is enough, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from recalign.run.stage import parse_stage, run_stage

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/extend.md").read_text()
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL))
TASTES = {  # the log of the fixture `cloned`, as its own YAML would have it
    "log": {"name": "tastes", "files": ["tastes.csv"]},
    "high": {"expression": "reward >= 4"},
    "split": {"class_path": "recalign.data.sequences.LeaveLast", "init_args": {"test": 3, "validation": 2}},
    "max_length": 32,
    "source": "observed",
}


@pytest.mark.parametrize(("module", "kind"), [("softplus", "Softplus"), ("margin", "Margin")])
def test_two_files_make_a_weighting_or_a_method(log_root, cloned, tmp_path, monkeypatch, module, kind):
    code, settings = tmp_path / f"{module}.py", tmp_path / f"{module}.yaml"
    code.write_text(BLOCKS[code.name])
    settings.write_text(BLOCKS["margin.yaml"].replace("margin", module).replace("Margin", kind))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tastes.yaml").write_text(yaml.safe_dump({"data": TASTES | {"root": str(log_root)}}))
    words = [f"--config={settings}", "--config=tastes.yaml", f"--model.init_from={cloned}", "--model.keep=null"]
    once = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    result = run_stage(parse_stage(["fit", *words, *once]))
    assert type(result.model).__name__ == kind
    assert result.trainer.global_step == 1
    start = result.model.reference.state_dict()
    assert not all(weight.equal(start[name]) for name, weight in result.model.policy.state_dict().items())
