"""A process is killed in a phase of a run; `python scripts/lost_peer.py` tries all phases and both processes."""

import lost_peer
import pytest

from fedjax_mri.run import launch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "victim"), [("building data", 1), pytest.param("checkpointing", 0, marks=pytest.mark.thorough)]
)
def test_the_others_end_with_a_line_and_the_run_goes_on(tmp_path, phase, victim) -> None:
    """On as many processes as before, to the last bit; `test_processes.py` goes on with others.

    Of a run that was lost before it had saved anything nothing goes on.
    """
    lost = lost_peer.lose(tmp_path, phase, victim)
    killed = f"error: process {victim} was ended by SIGKILL; {launch.AGAIN}"
    assert lost.code == 137 and killed in lost.errors
    assert all("lost contact" in line for line in lost.errors if line != killed), lost.errors
    if phase == "building data":
        assert not list(lost.folder.glob("checkpoints/*"))
    else:
        again = lost_peer.restarted(tmp_path, lost, 2)
        lost_peer.train(tmp_path, tmp_path / "whole", 2).check_returncode()
        assert lost_peer.difference(lost_peer.final(tmp_path / "whole"), again) == 0
