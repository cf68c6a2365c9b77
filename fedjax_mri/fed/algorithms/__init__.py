"""One federated algorithm per file, its paper on top."""
