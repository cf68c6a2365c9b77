"""A process is killed in a phase of a run; `python scripts/lost_peer.py` tries all phases and both processes."""

import lost_peer
import pytest

from fedjax_mri.run import launch


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run of two processes that nobody disturbs."""
    home = tmp_path_factory.mktemp("lost")
    lost_peer.train(home, home / "whole", 2).check_returncode()
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "victim"), [("building data", 1), ("checkpointing", 0)])
def test_the_others_end_with_a_line_and_the_run_goes_on(home, phase, victim) -> None:
    """On as many processes as before, to the last bit; `test_processes.py` goes on with others."""
    lost = lost_peer.lose(home, phase, victim)
    killed = f"error: process {victim} was ended by SIGKILL; {launch.AGAIN}"
    assert lost.code == 137 and killed in lost.errors
    assert all("lost contact" in line for line in lost.errors if line != killed), lost.errors
    again = lost_peer.restarted(home, lost, 2)
    assert lost_peer.difference(lost_peer.final(home / "whole"), again) == 0
