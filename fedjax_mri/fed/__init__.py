"""How it is learnt: local training, algorithms, what happens to updates on their way, and the engine around them."""
