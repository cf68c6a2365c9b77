"""The simulated world around the clients: who fails, who is slow, and what a round costs."""
