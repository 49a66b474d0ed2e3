"""What a served policy logged, joined with what came of it: an event table with exposure. Polars only, no torch."""
