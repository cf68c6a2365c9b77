"""The quick tests of `make check` are there, and some are of each folder."""

import pathlib

from conftest import QUICK, SLOWEST_FIRST

HERE = pathlib.Path(__file__).parent


def test_each_folder_has_a_quick_test() -> None:
    folders = {path.parent.name for path in HERE.glob("*/test_*.py")}
    assert {name.split("/")[0] for name in QUICK if "/" in name} == folders


def test_names_of_quick_tests_and_of_slow_files_exist() -> None:
    for name in QUICK:
        file, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}" in (HERE / file).read_text(), name
    for file in SLOWEST_FIRST:
        assert (HERE / file).exists(), file
