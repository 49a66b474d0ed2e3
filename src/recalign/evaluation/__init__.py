"""What a policy is worth: ranks, judges, truth, the comparison of methods, the report."""
