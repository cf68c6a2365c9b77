"""Random valid configs, and the check that one trains as the plain loop over clients does."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from simulations import BY_EXPECTED, plain_round
from tiny import Grey

from fedjax_mri.data.augment import Augment
from fedjax_mri.fed.algorithms.ditto import Ditto
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedbn import FedBN
from fedjax_mri.fed.algorithms.fedbuff import FedBuff
from fedjax_mri.fed.algorithms.feddyn import FedDyn
from fedjax_mri.fed.algorithms.fednova import FedNova
from fedjax_mri.fed.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedjax_mri.fed.algorithms.fedper import FedPer
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.fedrep import FedRep
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.algorithms.serveroptimizer import FedAvgM, ServerOptimizer
from fedjax_mri.fed.attack.backdoor import Backdoor
from fedjax_mri.fed.attack.boost import Boost
from fedjax_mri.fed.attack.duplicates import Duplicates
from fedjax_mri.fed.attack.gaussian import Gaussian
from fedjax_mri.fed.attack.labelflip import LabelFlip
from fedjax_mri.fed.attack.noisylabels import NoisyLabels
from fedjax_mri.fed.attack.off import Off
from fedjax_mri.fed.attack.signflip import SignFlip
from fedjax_mri.fed.attack.targetedflip import TargetedFlip
from fedjax_mri.fed.attack.zero import Zero
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, check_simulation, initial_state
from fedjax_mri.fed.sampling import Everyone, Poisson, Uniform
from fedjax_mri.fed.sampling.asynchronous import Asynchronous
from fedjax_mri.fed.sampling.availability import Diurnal, Markov
from fedjax_mri.fed.sampling.draws import Cyclic, Weighted
from fedjax_mri.fed.uplink.reductions.exact import Exact
from fedjax_mri.fed.uplink.reductions.mean import Mean
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.cast import Cast
from fedjax_mri.fed.uplink.stages.clip import Clip
from fedjax_mri.fed.uplink.stages.codebook import Codebook
from fedjax_mri.fed.uplink.stages.drive import Drive
from fedjax_mri.fed.uplink.stages.lowrank import LowRank
from fedjax_mri.fed.uplink.stages.partial import Partial as PartialSending
from fedjax_mri.fed.uplink.stages.qsgd import QSGD
from fedjax_mri.fed.uplink.stages.randk import RandK
from fedjax_mri.fed.uplink.stages.scaledsign import ScaledSign
from fedjax_mri.fed.uplink.stages.terngrad import TernGrad
from fedjax_mri.fed.uplink.stages.topk import TopK
from fedjax_mri.fed.world.conditions import Ideal, Partial, Stragglers
from fedjax_mri.fed.world.speeds import ClientSpeeds
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

ROUNDS = 2
CLIENTS = 5
PLAIN = Plan(devices=1, lanes=1, conv="xla")


def number(low: float, high: float) -> st.SearchStrategy[float]:
    """Draws a number of a few digits."""
    return st.floats(low, high).map(lambda value: float(f"{value:.3g}"))


RATES, SHARES = number(0.3, 1.5), number(0.1, 0.9)
FIRST = number(0.1, 0.5)  # share of two or more local steps that the first of them is
COHORTS = st.integers(1, CLIENTS)
ALGORITHMS: dict[str, st.SearchStrategy] = {  # by the names of `--fed.algorithm`
    "fedavg": st.builds(FedAvg, RATES),
    "fedprox": st.builds(FedProx, mu=number(0, 2), server_rate=RATES),
    "scaffold": st.builds(Scaffold, st.sampled_from(["I", "II"]), FIRST, RATES),
    "feddyn": st.builds(FedDyn, number(0.05, 1)),
    "fednova": st.builds(FedNova, number(0, 0.9), RATES),
    "fedavgm": st.builds(FedAvgM, RATES, number(0, 0.9)),
    "fedadagrad": st.builds(FedAdagrad, rate=number(0.001, 0.05), beta1=number(0, 0.9), tau=number(1e-3, 0.1)),
    "fedadam": st.builds(FedAdam, number(0.001, 0.05), number(0, 0.9), number(0.5, 0.99), number(1e-3, 0.1)),
    "fedyogi": st.builds(FedYogi, number(0.001, 0.05), number(0, 0.9), number(0.5, 0.99), number(1e-3, 0.1)),
    "serveroptimizer": st.builds(ServerOptimizer, st.just("optax.sgd"), RATES),
    "fedbn": st.builds(FedBN),
    "fedper": st.builds(FedPer, base=st.one_of(st.builds(FedAvg, RATES), st.just(Scaffold()))),
    "fedrep": st.builds(FedRep, head_share=FIRST),
    "ditto": st.builds(Ditto, number(0, 1)),
    "fedbuff": st.builds(FedBuff, power=number(0, 1), oldest=st.integers(0, 3), server_rate=RATES),
    "oneshot": st.just(OneShot()),
    "localonly": st.just(LocalOnly()),
}
SAMPLERS: dict[str, st.SearchStrategy] = {  # by the names of `--fed.sampling`; a trace needs a file
    "everyone": st.builds(Everyone, st.integers(-1, CLIENTS - 1)),
    "uniform": st.builds(Uniform, COHORTS, st.booleans()),
    "weighted": st.builds(Weighted, COHORTS, st.booleans()),
    "poisson": st.builds(Poisson, number(0.2, 1)),
    "cyclic": st.builds(Cyclic, COHORTS),
    "diurnal": st.builds(Diurnal, COHORTS, number(1, 4), SHARES, SHARES, st.integers(0, 9)),
    "markov": st.builds(Markov, COHORTS, number(1, 5), number(1, 5), st.integers(0, 9)),
    "asynchronous": st.builds(
        Asynchronous,
        st.integers(1, CLIENTS),
        COHORTS,
        st.just(0),
        st.builds(ClientSpeeds, seed=st.integers(0, 9)),
        number(0, 1),
        st.integers(0, 9),
    ),
}
STRAGGLERS = st.builds(
    Stragglers,
    jitter=number(0, 1),
    deadline_s=st.sampled_from([0.0, 0.5, 1.0]),
    late=st.sampled_from(["drop", "cut"]),
    partial=st.sampled_from(["work", "full"]),
    lost_before=number(0, 0.5),
    lost_after=number(0, 0.5),
)
CONDITIONS: dict[str, st.SearchStrategy] = {  # by the names of `--fed.conditions`
    "ideal": st.just(Ideal()),
    "partial": st.builds(Partial, SHARES, st.sampled_from(["keep", "drop"])),
    "stragglers": STRAGGLERS,
}
FEEDBACK = st.sampled_from(["none", "ef", "ef21"])
COMPRESSORS: dict[str, st.SearchStrategy] = {
    "cast": st.builds(Cast, st.sampled_from(["bf16", "int8"])),
    "codebook": st.builds(Codebook, st.integers(2, 4), feedback=FEEDBACK),
    "drive": st.builds(Drive, number(0.2, 1), st.sampled_from([32, 64])),
    "lowrank": st.builds(LowRank, st.just(1), feedback=FEEDBACK),
    "partial": st.builds(PartialSending, number(0.2, 1), st.just("turn"), FEEDBACK),
    "qsgd": st.builds(QSGD, st.integers(1, 4), st.sampled_from([0, 16])),
    "randk": st.builds(RandK, number(0.2, 1), st.booleans(), FEEDBACK),
    "scaledsign": st.builds(ScaledSign, st.sampled_from([0, 16]), FEEDBACK),
    "terngrad": st.builds(TernGrad, st.sampled_from([0.0, 2.5])),
    "topk": st.builds(TopK, st.just(1.0), FEEDBACK),  # of two classes' equal gradients, rounding would choose one
}
STAGES = {"clip": st.builds(Clip, number(0.01, 1)), **COMPRESSORS}
DIVISORS = st.sampled_from(["realised", "expected"])
REDUCTIONS = {"mean": st.builds(Mean, DIVISORS), "exact": st.builds(Exact, DIVISORS), "median": st.just(Median())}
WHO = {"clients": st.sampled_from([(0,), (1, 3)]), "seed": st.integers(0, 9)}
ATTACKS = {  # by the names of `--fed.attack`; what the omniscient ones send is compared in tests/fed/test_attacks.py
    "off": st.just(Off()),
    "backdoor": st.builds(Backdoor, **WHO, size=st.just(2), poisoned=number(0.1, 1), factor=number(0.5, 2)),
    "boost": st.builds(Boost, **WHO, factor=number(0.5, 3)),
    "duplicates": st.builds(Duplicates, **WHO, copies=st.integers(1, 4)),
    "gaussian": st.builds(Gaussian, **WHO, sigma=number(0.001, 0.1), around=st.booleans()),
    "labelflip": st.builds(LabelFlip, **WHO),
    "noisylabels": st.builds(NoisyLabels, **WHO, rate=SHARES),
    "signflip": st.builds(SignFlip, **WHO, factor=number(0.5, 2)),
    "targetedflip": st.builds(TargetedFlip, **WHO, source=st.just(1), target=st.just(0)),
    "zero": st.builds(Zero, **WHO),
}
LINEAR = st.just(LinearSettings())
CNN = st.builds(CNNSettings, st.just((4,)), hidden=st.sampled_from([0, 4]), norm=st.sampled_from(["group", "batch"]))
NETWORKS = st.one_of(LINEAR, CNN)
MOSTLY_LINEAR = st.integers(0, 5).flatmap(lambda drawn: LINEAR if drawn else CNN)  # compiles in half the time
UPLINKS = st.builds(
    UplinkSettings,
    weight=st.sampled_from(["examples", "uniform"]),
    stages=st.lists(st.one_of(*STAGES.values()), max_size=1).map(tuple),
    reduce=st.one_of(*REDUCTIONS.values()),
)
LOCAL = st.builds(
    LocalTraining,
    epochs=st.integers(1, 3),
    batch=st.integers(2, 6),
    optimizer=st.sampled_from(["optax.sgd", "optax.adagrad"]),  # Adam magnifies rounding where gradients are tiny
    learning_rate=number(0.001, 0.05),
    decay=st.sampled_from([0.0, 0.1]),
    schedule=st.sampled_from(["constant", "cosine", "linear", "onecycle"]),
    schedule_rounds=st.integers(4, 6),
)
PLANS = st.builds(
    Plan,
    devices=st.sampled_from([1, 2, 2, 8]),
    lanes=st.integers(1, 3),
    conv=st.sampled_from(["xla", "direct", "gemm", "each"]),
    remat=st.booleans(),
    loop=st.sampled_from(["segment", "round"]),
    data=st.sampled_from(["replicated", "sharded", "streamed"]),
    clients=st.sampled_from(["device", "host"]),
)


@st.composite
def valid_configs(draw: st.DrawFn, networks: st.SearchStrategy = NETWORKS) -> Experiment:
    """Draws a config whose parts are allowed to be together."""
    algorithm = draw(st.sampled_from(list(ALGORITHMS)))
    sampler = draw(st.sampled_from(list(SAMPLERS)))
    network = CNNSettings((4,)) if algorithm == "fedbn" else draw(networks)  # FedBN needs norms
    local, conditions = draw(LOCAL), draw(st.one_of(*CONDITIONS.values()))
    if (isinstance(conditions, Partial) and conditions.late == "keep") or algorithm in ("scaffold", "fedrep"):
        local = replace(local, epochs=max(2, local.epochs))
    uplink, sampling = draw(UPLINKS), draw(SAMPLERS[sampler])
    uneven = sampler in ("diurnal", "markov", "asynchronous") or (sampler == "weighted" and not sampling.replace)
    if uneven and uplink.reduce != Median():  # nobody knows the weight of an average cohort
        uplink = replace(uplink, reduce=replace(uplink.reduce, divisor="realised"))
    if algorithm == "oneshot" or isinstance(uplink.reduce, Median):  # refuse some compressors
        uplink = replace(uplink, stages=tuple(stage for stage in uplink.stages if isinstance(stage, Clip)))
    attack = draw(st.one_of(*ATTACKS.values()))
    if algorithm in ("oneshot", "localonly") and attack != Off() and attack.build(2).send:  # these send no updates
        attack = Off()
    return Experiment(
        data=Grey(CLIENTS),
        seed=draw(st.integers(0, 3)),
        rounds=ROUNDS,
        evaluate_every=ROUNDS,
        task=Classify(
            network=network,
            statistics=draw(st.sampled_from(["average", "local"])),
            augment=Augment(flip=draw(st.sampled_from([0.0, 0.5]))),
        ),
        local=local,
        sampling=sampling,
        conditions=conditions,
        attack=attack,
        uplink=uplink,
        algorithm=draw(ALGORITHMS[algorithm]),
        plan=draw(PLANS),
    )


def simulation_of(config: Experiment, plan: Plan) -> Simulation:
    """The simulation of a config, with the data built anew."""
    federation = config.data.build(config.seed)
    return assemble(config, describe(federation), federation.train, plan)


def trained_by_engine(config: Experiment) -> tuple[State, State]:
    """The state before the first round, as NumPy arrays, and that after the config's rounds."""
    plan, root = config.plan.resolve(), jax.random.key(config.seed)
    sim = simulation_of(config, plan)
    check_simulation(sim, plan)
    rounds, first = segments.build(sim, plan, root, config.rounds), initial_state(sim, plan, root)
    before = jax.tree.map(np.array, first)  # copies, as the rounds reuse the memory of their state
    return before, rounds(first, config.rounds)[0]


def trained_by_plain_loop(config: Experiment, state: State) -> State:
    """The state after the config's rounds by a loop over clients, whose aggregate is computed by NumPy."""
    sim, root = simulation_of(config, PLAIN), jax.random.key(config.seed)
    if config.uplink.reduce in (Mean("expected"), Exact("expected")):
        sim = sim._replace(uplink=sim.uplink._replace(reduce=BY_EXPECTED))
    state = jax.tree.map(jnp.asarray, state)
    for _ in range(config.rounds):
        state = plain_round(sim, state, root)
    return state


def assert_trains_as_plain_loop(config: Experiment) -> None:
    """Compares each leaf of the state: parameters, statistics, what server and clients remember, counts."""
    before, actual = trained_by_engine(config)
    wanted = trained_by_plain_loop(config, before)
    assert int(actual.round) == config.rounds
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=5e-5, err_msg=jax.tree_util.keystr(path))
