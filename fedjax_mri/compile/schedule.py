"""How many passes the devices need for the first round's cohort."""

import jax.numpy as jnp
import numpy as np

from fedjax_mri.compile.roofline import Schedule
from fedjax_mri.fed.engine.auto import first_cohort_steps
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.schedule import longest_first
from fedjax_mri.fed.engine.simulation import Simulation


def first_round(sim: Simulation, plan: Plan) -> Schedule:
    """Returns what the busiest device does in the first round."""
    return schedule(np.asarray(first_cohort_steps(sim)), plan.devices, plan.lanes)


def schedule(steps: np.ndarray, devices: int, lanes: int) -> Schedule:
    """Returns what the busiest device does with a cohort whose clients take `steps` int32 [K]."""
    queues = longest_first(jnp.asarray(steps), devices * lanes, devices=devices)
    order, start, stop = (np.asarray(each) for each in queues)
    done = [np.cumsum(steps[order[a:b]]) for a, b in zip(start, stop)]  # passes after which each lane changes clients
    of_device = [done[first : first + lanes] for first in range(0, devices * lanes, lanes)]
    passes = [max((int(lane[-1]) for lane in each if len(lane)), default=0) for each in of_device]
    busiest = of_device[int(np.argmax(passes))]
    changes = np.unique(np.concatenate([lane[np.diff(lane, prepend=0) > 0] for lane in busiest]))
    return Schedule(max(passes), len(changes))
