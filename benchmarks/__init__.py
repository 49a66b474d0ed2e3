"""Studies: each folder holds a script, the rows that it saved, and what was asked and found. Run from the root."""
