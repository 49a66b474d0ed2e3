"""What runs behind `recalign fit|validate|test|predict`: LightningCLI, checks, the run folder and its manifest."""

from recalign.run.stage.command import Stage, parse_stage
from recalign.run.stage.folder import Manifest, RunConfig, RunFolder
from recalign.run.stage.stage import FinishedRun, StageResult, run_stage

__all__ = ["FinishedRun", "Manifest", "RunConfig", "RunFolder", "Stage", "StageResult", "parse_stage", "run_stage"]
