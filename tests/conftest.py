"""Every test has eight host devices, strict promotion, and one cache of compiled programs and measured plans.

A test's program runs a few times on small shapes, so that nearly all of its time goes into compiling it. XLA is
therefore told to optimise as little as it can, and to emit loops by its older way, which compiles twice as quickly.
"""

import functools
import gc
import itertools
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # of processes that tests start: all is kept
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # of processes that tests start: each would compile the package again
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).parent.parent / ".jax_cache")

import jax
import pytest
from matplotlib.figure import Figure

from fedjax_mri.core import devices, programs
from fedjax_mri.run import fingerprint

sys.dont_write_bytecode = False
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["XDG_CACHE_HOME"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
gc.set_threshold(50_000, 20, 20)  # tracing makes so many objects that Python would look for garbage all the time

CASES = pathlib.Path(__file__).parents[2] / "shared" / "cases"
OWN_FLAGS = os.environ["XLA_FLAGS"]
SLOWEST_FIRST = (  # roughly by processor time with an empty cache of programs
    "deploy/test_flower.py",
    "fed/test_engine.py",
    "serve/test_serve_processes.py",
    "serve/test_serve.py",
    "api/test_notebooks.py",
    "test_site.py",
    "data/test_scans.py",
    "cli/test_cli.py",
    "fed/test_algorithms.py",
    "fed/test_members.py",
    "nets/test_layers.py",
    "fed/test_statistics.py",
    "run/test_identity.py",
    "run/test_translation_run.py",
    "run/test_processes.py",
    "faults/test_matrix.py",
    "fed/test_auto.py",
    "run/test_private_run.py",
    "run/test_programs.py",
    "fed/test_uplink.py",
    "study/test_sweep_faults.py",
    "run/test_lost_peer.py",
    "explain/test_explain.py",
    "run/test_encoder.py",
    "faults/test_cases.py",
    "report/test_report.py",
    "data/test_other_phantoms.py",
    "tasks/test_cyclegan.py",
    "run/test_nonfinite.py",
    "run/test_volumes.py",
    "run/test_reference.py",
    "attack/test_inversion.py",
    "study/test_sweep.py",
    "data/prepare/test_steps.py",
    "scripts/test_diagnosis.py",
    "fed/test_exact.py",
    "fed/test_compression.py",
    "fed/test_patient.py",
    "tasks/test_classify.py",
    "run/test_initial.py",
    "report/test_audit.py",
    "fed/test_afterwards.py",
    "cli/test_failures.py",
    "data/test_phantom.py",
    "fed/test_secure.py",
    "fed/test_parts.py",
    "test_extending.py",
    "run/test_restore.py",
    "faults/test_random_configs.py",
    "fed/test_rules.py",
    "data/test_folder.py",
)
DRAWN = (  # tests that look at figures of pages, or whose runs have values that are hard to draw
    "attack/",
    "compile/",
    "convert/",
    "data/prepare/",
    "data/test_scans.py",
    "explain/",
    "faults/test_cases.py",
    "fed/test_secure.py",
    "report/",
    "run/test_nonfinite.py",
    "run/test_private_run.py",
    "run/test_translation_run.py",
    "run/test_volumes.py",
    "scripts/",
)
# tests whose runs keep traced programs, as users' do
SHELVED = ("faults/test_matrix.py", "run/test_identity.py", "run/test_programs.py")
QUICK = (  # what `make check` runs: some of each folder
    "test_architecture.py::test_e",
    "test_architecture.py::test_federation_names_no_task",
    "test_check.py",
    "test_docs.py::test_commands_of_the_readme_are_understood",
    "test_docs.py::test_links_of_the_readme_lead_somewhere",
    "test_docs.py::test_make_targets_of_the_readme_exist",
    "test_docs.py::test_the_readme_shows_commands",
    "api/test_python_api.py::test_the_package_imports_nothing_heavy_by_itself",
    "attack/test_membership.py::test_l",
    "cli/test_cli.py::test_help_everywhere",
    "cli/test_cli.py::test_a_folder_that_is_no_run_is_named",
    "compile/test_kernels.py",
    "compile/test_roofline.py",
    "convert/test_files.py",
    "data/test_partition.py",
    "data/test_unpaired.py",
    "deploy/test_deployment.py::test_a_mistake",
    "explain/test_explain.py::test_words_say_where_and_how_much",
    "faults/test_random_configs.py::test_every_part_that_can_be_chosen_is_drawn",
    "faults/test_random_configs.py::test_bad_values_are_of_fields_that_there_are",
    "run/test_fields.py",
    "fed/test_engine.py::test_equals_a_plain_loop_over_clients[cohort of 4, a player at home-3-2",
    "fed/test_parts.py",
    "metrics/test_classification.py",
    "metrics/test_fairness.py",
    "metrics/test_triage.py",
    "nets/test_resample.py",
    "report/test_report.py::test_says_the_numbers",
    "report/test_study_report.py::test_holm_by_hand",
    "run/test_config.py",
    "run/test_early.py",
    "scripts/test_workloads.py",
    "secure/test_secure_protocol.py",
    "serve/test_serve.py::test_slices_are_cut",
    "study/test_sweep.py::test_bad_axes_are_named",
    "study/test_sweep.py::test_cells_are_all_combinations",
    "study/test_sweep.py::test_linked_fields_change_together_and_values_may_have_names",
    "tasks/test_classify.py::test_padding_changes_neither_gradient_nor_carry",
    "tasks/test_image_pool.py",
    "xai/test_gradients.py",
)


def covering(first: Sequence, second: Sequence, third: Sequence) -> list:
    """All triples of values for `parametrize`. Those of the default run hold each pair of values of two factors.

    For that `third` is the shortest; the other triples are marked as thorough.
    """
    numbers = itertools.product(*(range(len(factor)) for factor in (first, second, third)))
    return [
        pytest.param(first[i], second[j], third[k], marks=() if k == (i + j) % len(third) else pytest.mark.thorough)
        for i, j, k in numbers
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the quick tests, and puts the files that take longest first: the last ones are then short for both workers.

    The names of tests begin with "tests/", as pytest's root is the repository.
    """
    quick = tuple(f"tests/{name}" for name in QUICK)
    rank = {f"tests/{name}": number for number, name in enumerate(SLOWEST_FIRST)}
    for item in items:
        if item.nodeid.startswith(quick):
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(autouse=True, scope="session")
def users_options() -> Iterator[Callable]:
    """Gives the function of a plan's options for XLA, which no program gets here: they double the time to compile it.

    `tests/fed/test_options.py` and `test_members.py` train with them, and so do the tests that start the command in a
    process of its own.
    """
    given = programs.xla_options

    def of_users() -> dict[str, Any] | None:
        with pytest.MonkeyPatch.context() as patch:
            if os.environ.get("XLA_FLAGS") == OWN_FLAGS:  # their options would be left as they are
                patch.delenv("XLA_FLAGS")
            return given()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "xla_options", lambda: None if devices.current().present else given())
        yield of_users


@pytest.fixture(autouse=True, scope="module")
def shelf(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps no traced programs, but in the tests of `SHELVED`: a run of this process is seldom like another one.

    Without a name for all that decides its programs a run keeps none. The tests that start the command keep theirs.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.nodeid.startswith(tuple(f"tests/{name}" for name in SHELVED)):
            patch.setattr(fingerprint, "of_run", lambda *_: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leaves the figures of pages empty, but in the tests of `DRAWN`: to draw them takes longer than to train."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.nodeid.startswith(tuple(f"tests/{name}" for name in DRAWN)):
            save = Figure.savefig

            def empty(figure: Figure, file: Any, format: str | None = None, **options: Any) -> None:
                if format == "svg":
                    file.write("<svg/>")
                else:
                    save(figure, file, format=format, **options)

            patch.setattr(Figure, "savefig", empty)
        yield


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> Callable[[str], pathlib.Path]:
    """Gives a function from the name of a script in shared/cases, "f_folder", to the folder of files that it makes."""

    @functools.cache
    def made(script: str) -> pathlib.Path:
        if not (CASES / f"{script}.py").is_file():
            pytest.skip(f"the scripts that make difficult files are not there: {CASES}")
        folder = tmp_path_factory.mktemp(script)
        environment = {**os.environ, "CASES": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, f"{script}.py"], cwd=CASES, env=environment, check=True, capture_output=True)
        return folder

    return made
