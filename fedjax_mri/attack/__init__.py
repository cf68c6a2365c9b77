"""What an attacker gets from a run: who was trained on, and what the images were. It may import `run` and `report`."""
