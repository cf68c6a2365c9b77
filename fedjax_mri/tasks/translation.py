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

from fedjax_mri.errors import UserError, known
from fedjax_mri.nets.functional import Net
from fedjax_mri.tasks.task import Batch, Carry, Metrics, Model, Params, Phase, PyTree, Task

MODALITIES = ("ct", "mr")
DIRECTIONS = (("ct", "mr"), ("mr", "ct"))  # from, to

Window = tuple[float, float] | None  # HU seen as -1 and 1; None: CT is a picture in 0..1 whose HU nobody knows
Kept = Literal["average", "local"]  # averaged by the server, or kept by the client
Images = dict[str, jax.Array]  # modality -> [B, H, W, C]
Terms = dict[str, jax.Array]  # name -> [B], or sums over examples [...]; then with their "weight"


def limits(window: Window) -> dict[str, tuple[float, float]]:
    """What stands for -1 and 1 in each modality's own units. Raises UserError on a window that is none."""
    if window is not None and not window[0] < window[1]:
        raise UserError(f"task.window={window}: give the lower HU first, or None for CT in 0..1")
    return {"ct": window or (0.0, 1.0), "mr": (0.0, 1.0)}


def seen(window: Window, batch: Batch) -> Images:
    """The batch's CT and MR as networks see them, in -1..1; what lies beyond the window is clipped."""

    def scaled(x: jax.Array, low: float, high: float) -> jax.Array:
        return 2 * jnp.clip((x - low) / (high - low), 0.0, 1.0) - 1

    return {name: scaled(batch[name], *ends) for name, ends in limits(window).items() if name in batch}


def given(window: Window, name: str, x: jax.Array) -> jax.Array:
    """Images in -1..1 in the units of their modality: CT in HU, MR in 0..1."""
    low, high = limits(window)[name]
    return low + (high - low) * unit(x)


def unit(x: jax.Array) -> jax.Array:
    """-1..1 to 0..1."""
    return (x + 1) / 2


def task(
    window: Window,
    discriminators: Kept,
    init: Callable[[jax.Array], Model],
    phases: tuple[Phase, ...],
    terms: Callable[[Params, Carry, Batch], Terms],
    translate: Callable[[Params, Carry, Images], Images],
    headline: str,
) -> Task:
    """The task whose `terms` judge a test batch, by the negative of `headline`; `translate` works on -1..1."""

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return tally(terms(params, carry, batch), batch["weight"])

    def predict(params: Params, carry: Carry, batch: Batch) -> Images:
        made = translate(params, carry, seen(window, batch))
        return {to: given(window, to, image) for to, image in made.items()}

    def shared(model: Model) -> PyTree:
        travels = {"generator": True, "discriminator": discriminators == "average"}
        return Model(*(marked(tree, travels) for tree in model))

    def score(sums: Terms) -> jax.Array:
        return -sums[headline] / sums["weight"]

    limits(window)
    return Task(init, phases, evaluate, predict, shared, summary, score)


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


def summary(sums: Terms) -> dict[str, float]:
    """Mean terms; of images in -1..1 where they compare images."""
    return {name: float(total / sums["weight"]) for name, total in sums.items() if name != "weight"}


def check_weights(settings: Any, *names: str, at: str = "task") -> None:
    """Raises UserError on a weight or count below 0, in the section `at`."""
    for name in names:
        value = getattr(settings, name)
        if known(value) and not value >= 0:
            raise UserError(f"{at}.{name}={value}: give 0 or more")


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Adam as adversarial training wants it: local.optimizer="fedjax_mri.tasks.translation.adam", rate 2e-4."""
    return optax.adam(rate, b1=0.5)
