"""Join the decision log of a server with outcomes, into an event table with exposure. Polars only, no torch."""
