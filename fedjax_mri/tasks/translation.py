"""What the tasks of translating between CT and MR share: units, players, sums of terms, and what travels.

A batch holds "ct", in HU (with `window` None: a picture in 0..1), and "mr" in 0..1, float32 [B, H, W, C]: of different
patients in unpaired training, of the same one for pix2pix and in tests. Networks see both in -1..1.

Params are {"generator": ..., "discriminator": ...}; so is the carry, where it keeps running statistics, with what else
a task remembers beside them. All arrays of one batch share its weight [B].
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core.errors import UserError, known
from fedjax_mri.nets.functional import Net
from fedjax_mri.tasks import measures
from fedjax_mri.tasks.task import Batch, Carry, Metrics, Model, Params, Phase, PyTree, Task
from fedjax_mri.tasks.units import Images, Window, given, limits, seen, unit

Kept = Literal["average", "local"]  # averaged by the server, or kept by the client
Terms = dict[str, jax.Array]  # name -> [B], or sums over examples [...]; then with their "weight"


def task(
    window: Window,
    discriminators: Kept,
    init: Callable[[jax.Array], Model],
    phases: tuple[Phase, ...],
    terms: Callable[[Params, Carry, Batch], Terms],
    translate: Callable[[Params, Carry, Images, jax.Array | None], Images],
    headline: str,
    makes: tuple[str, ...],
) -> Task:
    """The task whose `terms` judge a test batch, by the negative of `headline`.

    `translate` works on -1..1, and makes those of the modalities `makes` whose source it is given; with a key by the
    network's noise.
    """

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        made = measures.measures(predict(params, carry, batch), batch, window)
        return tally(terms(params, carry, batch), batch["weight"]) | {"made": made}

    def predict(params: Params, carry: Carry, batch: Batch) -> Images:
        return draw(params, carry, batch, None)

    def draw(params: Params, carry: Carry, batch: Batch, key: jax.Array | None) -> Images:
        made = translate(params, carry, seen(window, batch), key)
        return {to: given(window, to, image) for to, image in made.items()}

    def shared(model: Model) -> PyTree:
        travels = {"generator": True, "discriminator": discriminators == "average"}
        return Model(*(marked(tree, travels) for tree in model))

    def score(sums: Terms) -> jax.Array:
        return -sums[headline] / sums["weight"]

    def summary(sums: Metrics) -> dict[str, float]:
        of_terms = {name: float(x / sums["weight"]) for name, x in sums.items() if name not in ("weight", "made")}
        return of_terms | measures.summary(sums.get("made", {}), sums["weight"], window)

    def kept(made: Images, batch: Batch) -> dict[str, jax.Array]:
        return measures.kept(made, batch, window)

    def shown(params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        images = seen(window, batch)
        made = translate(params, carry, images, None)
        back = {f"back_{name}": x for name, x in translate(params, carry, made, None).items()}
        everything = images | {f"made_{name}": x for name, x in made.items()} | back
        return {name: unit(x) for name, x in everything.items()}

    limits(window)
    first = tuple(f"{to}/{figure}" for figure in ("ssim", "mae") for to in ("mr", "ct") if to in makes)
    figures = summary, score
    return Task(init, phases, evaluate, predict, shared, *figures, kept=kept, shown=shown, headline=first, draw=draw)


def marked(tree: dict[str, PyTree], marks: dict[str, bool]) -> dict[str, PyTree]:
    """At each leaf the mark of its branch; False where the branch has none."""
    return {name: jax.tree.map(lambda _, name=name: marks.get(name, False), branch) for name, branch in tree.items()}


def moves(player: str) -> Callable[[Params], PyTree]:
    """The mask of one player's parameters."""
    return lambda params: marked(params, {player: True})


def init_each(net: Net, keys: dict[str, jax.Array]) -> tuple[PyTree, PyTree]:
    """A net for each name: its params and its carry by that name."""
    models = {name: net.init(key) for name, key in keys.items()}
    return tuple({name: model[part] for name, model in models.items()} for part in (0, 1))  # type: ignore[return-value]


def apart(
    apply: Callable[[jax.Array, jax.Array], tuple[jax.Array, PyTree]], weight: jax.Array, *x: jax.Array
) -> tuple[list[jax.Array], PyTree]:
    """Several batches [B, ...] of one weight [B] through a net, and its carry after the first of them.

    In one pass where no running statistics, and so no BatchNorm, make examples depend on each other.
    """
    if len(x) > 1 and not jax.tree.leaves(jax.eval_shape(apply, x[0], weight)[1]):
        together, carry = apply(jnp.concatenate(x), jnp.tile(weight, len(x)))
        return jnp.split(together, len(x)), carry
    results = [apply(one, weight) for one in x]
    return [y for y, _ in results], results[0][1]


def summed(parts: Iterable[Terms]) -> Terms:
    """Terms of several directions added by name."""
    total: Terms = {}
    for part in parts:
        total |= {name: total[name] + values if name in total else values for name, values in part.items()}
    return total


def objective(weights: dict[str, float], terms: Terms) -> jax.Array:
    """The weighted sum [B] of the terms that have a weight."""
    return sum((weights[name] * values for name, values in terms.items() if name in weights), start=jnp.float32(0))


def tally(terms: Terms, weight: jax.Array) -> Terms:
    """Weighted sums over a batch."""
    return {name: jnp.sum(values * weight) for name, values in terms.items()} | {"weight": jnp.sum(weight)}


def check_weights(settings: Any, *names: str, at: str = "task") -> None:
    """Raises UserError on a weight or count below 0, in the section `at`."""
    for name in names:
        value = getattr(settings, name)
        if known(value) and not value >= 0:
            raise UserError(f"{at}.{name}={value}: give 0 or more")


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Adam as adversarial training wants it: local.optimizer="fedjax_mri.tasks.translation.adam", rate 2e-4."""
    return optax.adam(rate, b1=0.5)
