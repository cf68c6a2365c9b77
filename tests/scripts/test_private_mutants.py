"""The mistakes that `scripts/private_mutants.py` plants are changes of lines that the source has."""

import private_mutants
import pytest


@pytest.mark.parametrize("mistake", private_mutants.MISTAKES, ids=lambda mistake: mistake.what)
def test_the_line_that_a_mistake_changes_is_there_once(mistake):
    source = (private_mutants.HOME / mistake.file).read_text(encoding="utf-8")
    assert source.count(mistake.right) == 1
