"""Run a stage, a chain of stages, or either from Python."""
