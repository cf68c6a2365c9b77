"""A run that is killed at random moments, also while it starts, compiles and saves, goes on to the same bits."""

import pathlib

import pytest
from random_kills import kill_at_random
from test_cli import CONFIG, fill


@pytest.mark.slow
@pytest.mark.thorough  # run/test_lost_peer.py kills a run while it saves, study/test_sweep_faults.py while it trains
def test_killed_at_any_moment_a_run_goes_on_bit_for_bit(tmp_path) -> None:
    """Once; `scripts/fault_matrix.py --kills 50` kills the small sibling of the quick-start as often as you like."""
    fill(tmp_path / "images", {"Training": 14, "Testing": 6})
    (tmp_path / "tiny.py").write_text(CONFIG.format(root=str(tmp_path / "images")))

    def train(folder: pathlib.Path, flags: list[str]) -> list[str]:
        return ["train", str(tmp_path / "tiny.py"), "--out", str(folder), "--rounds", "16", *flags]

    said = list[str]()
    outcome = kill_at_random(train, tmp_path, 1, say=said.append)
    assert outcome.kills == outcome.identical == 1, said
