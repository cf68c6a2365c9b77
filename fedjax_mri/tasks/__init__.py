"""What is learnt: the only place where networks, losses and metrics meet."""
