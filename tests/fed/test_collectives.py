"""What a round sends between devices, read from the compiled program."""

import re

import jax
import numpy as np
import pytest
from simulations import CASES

from fedjax_mri.core import trees
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import init_state

ROOT = jax.random.key(11)
COLLECTIVE = re.compile(r"= (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)\(")
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "u8": 1}


def collectives(plan: Plan, monkeypatch) -> list[tuple[str, int]]:
    """Kind and bytes of every collective in the program of a segment."""
    programs, make = [], segments.compile_rounds
    monkeypatch.setattr(
        segments, "compile_rounds", lambda *given, **more: programs.append(make(*given, **more)) or programs[-1]
    )
    segments.build(CASES["resident"](), plan.resolve(), ROOT, 3)
    found = COLLECTIVE.findall(programs[0].as_text())
    return [(kind, sum(size(shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes))) for shapes, kind in found]


def size(shape: tuple[str, str]) -> int:
    return BYTES[shape[0]] * int(np.prod([int(n) for n in shape[1].split(",") if n]))


@pytest.mark.parametrize("data", ["replicated", "sharded", "streamed"])
@pytest.mark.parametrize("devices", [2, 8])
def test_a_round_has_one_collective_of_the_size_of_the_update(data: str, devices: int, monkeypatch) -> None:
    """The weighted sum of updates with the metrics; beside it a few numbers: counts, and the slowest device's steps."""
    found = collectives(Plan(devices=devices, lanes=2, data=data), monkeypatch)
    model = trees.nbytes(jax.eval_shape(lambda: init_state(CASES["resident"](), ROOT)).server.model)
    assert {kind for kind, _ in found} == {"all-reduce"}
    *small, large = sorted(count for _, count in found)
    assert model <= large <= model + 256 and sum(small) <= 64
