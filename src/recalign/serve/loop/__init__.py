"""Off-policy estimates and monitoring from a decision log joined with outcomes. Bundles give scores, without torch."""
