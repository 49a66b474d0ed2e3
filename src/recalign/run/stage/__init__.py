"""What runs behind `recalign fit|validate|test|predict`: LightningCLI, checks, the run folder and its manifest."""

from recalign.run.stage.cli import ParsedStage, StageResult, parse_stage, run_stage
from recalign.run.stage.fit import Fit, Trained
from recalign.run.stage.folder import RunConfig, RunFolder
from recalign.run.stage.manifest import Manifest

__all__ = [
    "Fit",
    "Manifest",
    "ParsedStage",
    "RunConfig",
    "RunFolder",
    "StageResult",
    "Trained",
    "parse_stage",
    "run_stage",
]
