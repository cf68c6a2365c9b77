"""How long a first signal may wait for an answer.

Python answers a signal when a compiled program returns. That may take a segment, and never happens if the program
hangs. So each answer is noted, and the longest wait so far tells how long the next one may take.
"""

import time

asked = 0  # the first signal that asked this process to stop, noted by a thread that hears them (cli/ending.py)
GRACE = 20.0  # seconds; SLURM and Kubernetes kill a process 30 s after they have sent SIGTERM
_last, _longest = time.monotonic(), 0.0


def note_answer() -> None:
    """Notes that signals are answered now. The training loop calls it before the first and after each segment."""
    global _last, _longest
    now = time.monotonic()
    _last, _longest = now, max(_longest, now - _last)


def seconds() -> float:
    """Returns the seconds that a signal may wait: twice the longest wait so far, and at least GRACE."""
    return max(GRACE, 2 * _longest)
