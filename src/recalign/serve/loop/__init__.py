"""A served log and a candidate: what it would have earned, before it is shown. Bundles answer; no torch is needed."""
