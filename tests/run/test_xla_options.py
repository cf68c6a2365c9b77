"""Options that the compiler is given: by platform, and never against the user's own."""

from collections.abc import Callable

import jax
import pytest

from fedjax_mri.core import devices

OVERLAP, TRITON = "xla_gpu_enable_latency_hiding_scheduler", "xla_gpu_enable_triton_gemm"


@pytest.fixture
def options(users_options, monkeypatch) -> Callable[..., dict]:
    """A function to the options for a machine of so many devices, under the user's XLA_FLAGS."""
    here = devices.current()

    def of(platform: str, number: int, present: bool = True, flags: str = "") -> dict:
        there = here._replace(platform=platform, every=here.every[:1] * number, present=present)
        monkeypatch.setattr(devices, "current", lambda: there)
        monkeypatch.setenv("XLA_FLAGS", flags)
        return users_options() or {}

    return of


def test_several_gpus_sum_beside_other_work(options) -> None:
    assert options("gpu", 8) == {OVERLAP: True}


def test_one_gpu_and_a_tpu_have_the_compilers_own_options(options) -> None:
    assert options("gpu", 1) == {}
    assert options("tpu", 4) == {}


def test_without_a_gpu_nothing_is_asked_of_its_tuning(options) -> None:
    assert options("gpu", 8, present=False) == {OVERLAP: True, TRITON: False}


@pytest.mark.parametrize(
    ("platform", "flags", "left"),
    [
        ("gpu", f"--xla_dump_to=/nowhere --{OVERLAP}=false", OVERLAP),
        ("cpu", "--xla_backend_optimization_level=3", "xla_backend_optimization_level"),
    ],
)
def test_what_the_user_sets_is_left_to_them(options, platform, flags, left) -> None:
    usual = options(platform, 2)
    found = options(platform, 2, flags=flags)
    assert left in usual and found == {name: value for name, value in usual.items() if name != left}


def test_jax_keeps_what_it_has_measured_of_a_gpu_beside_its_programs() -> None:
    """JAX gives XLA a folder for measured kernels in that of its compiled programs, which `prepare_jax` sets."""
    assert "xla_gpu_per_fusion_autotune_cache_dir" in jax.config.jax_persistent_cache_enable_xla_caches
