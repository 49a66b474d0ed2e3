"""How far to trust a reward model: its errors, the errors of simpler predictors, and one verdict."""
