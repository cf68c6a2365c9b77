"""The simulated world: clients that fail or are slow, and the time and traffic that a round costs."""
