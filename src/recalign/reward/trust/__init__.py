"""How far a reward model can be trusted: its errors and those of simpler predictors, and one verdict."""
