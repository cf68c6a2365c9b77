"""One federated algorithm a file, its paper on top."""
