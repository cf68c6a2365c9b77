"""Each kind of network compiles for accelerators that are not here, under the plan that the rules choose for it."""

from collections.abc import Callable

import numpy as np
import pytest
from simulations import CASES, classifier, images, simulation

from fedjax_mri.compile import hlo, kernels, machines, targets
from fedjax_mri.compile.kernels import Kernel
from fedjax_mri.core import devices
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.engine import auto, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.tasks.classify import Classify

Assemble = Callable[[Plan], Simulation]
GPU, TPU = "h200:2", "v5e:4"


def compute(plan: Plan) -> Compute:
    return Compute(plan.conv, plan.precision, plan.remat)


def of_network(network, image: tuple[int, ...]) -> Assemble:
    """Returns a simulation of six clients that train `network` on two classes."""
    fields = {"image": np.zeros((24, *image), np.uint8), "label": np.arange(24, dtype=np.int32) % 2}
    data, described = resident(fields, np.split(np.arange(24), 6)), DataDescription(image, ("a", "b"), 6)
    return lambda plan: simulation(Classify(network=network).build(described, compute(plan)), data)


NETWORKS: dict[str, Assemble] = {
    "CNN": lambda plan: simulation(classifier(compute=compute(plan)), images()),
    "ResNet": of_network(ResNetSettings(18, width=8), (32, 32, 1)),
    "pix2pix": lambda plan: CASES["pix2pix"](),
}


def compiled(machine: str, assemble: Assemble, plan: Plan):
    """Returns the compiled segment for a machine under the plan by rule; skips where its compiler is missing."""
    described = machines.parse(machine)
    if not targets.is_installed(targets.PLUGINS[described.accelerator.platform][0]):
        pytest.skip(f"the compiler for {machine} is not installed")
    with devices.compiling_for(targets.compile_devices(described)):
        plan = auto.plan_by_rule(plan, assemble)
        return segments.compile_for_shapes(assemble(plan), plan, 2)


@pytest.mark.parametrize(
    ("machine", "network", "plan"),
    [
        (GPU, "ResNet", Plan()),
        (GPU, "pix2pix", Plan()),
        (GPU, "CNN", Plan(conv="gemm", precision="bf16")),
        (TPU, "CNN", Plan(precision="bf16")),
    ],
    ids=lambda given: f"{given.conv}, {given.precision}" if isinstance(given, Plan) else given,
)
def test_a_network_compiles_under_the_plan_by_rule(machine, network, plan) -> None:
    """Its large products have factors of the type that the precision asks for."""
    found = compiled(machine, NETWORKS[network], plan)
    of_step = [one for one in kernels.events(hlo.parse(found.as_text())) if isinstance(one, Kernel)]
    products = {one.dtype for one in of_step if one.part == "step" and one.flops > 1e4}
    assert products == {"bf16" if plan.precision == "bf16" else "f32"}


def test_a_local_step_waits_for_the_host_of_a_gpu_no_more_than_it_did() -> None:
    """The loop over steps, the walk of the shuffle, and the branch in which a client is done."""
    found = kernels.events(hlo.parse(compiled(GPU, NETWORKS["CNN"], Plan(conv="xla", precision="tf32")).as_text()))
    waits = [one for one in found if isinstance(one, kernels.Wait) and one.part == "step"]
    assert sum(one.times for one in waits) <= 3
