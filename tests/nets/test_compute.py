"""A network computed in every way: the same figures and gradients, to the precision asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.resnet import ResNetSettings

NETS = {
    "CNN": CNNSettings(widths=(8, 16), hidden=8),
    "CNN, BatchNorm": CNNSettings(widths=(8, 16), norm="batch"),
    "ResNet": ResNetSettings(width=8),
}
WAYS = {
    "gemm, kept": (Compute("gemm", remat=True), 1e-5),
    "direct": (Compute("direct"), 1e-5),
    "direct, kept": (Compute("direct", remat=True), 1e-5),
    "each, kept": (Compute("each", remat=True), 1e-5),
    "gemm, bf16": (Compute("gemm", "bf16"), 0.4),
    "direct, bf16": (Compute("direct", "bf16"), 0.4),
}
TRIED = [  # each takes seconds to compile
    *(("CNN", way) for way in ("gemm, kept", "direct, kept", "each, kept", "gemm, bf16", "direct, bf16")),
    ("CNN, BatchNorm", "direct, kept"),
    *(
        pytest.param(*one, marks=pytest.mark.thorough)
        for one in (("CNN, BatchNorm", "gemm, bf16"), ("ResNet", "direct"))
    ),
]
X = jax.random.uniform(jax.random.key(1), (2, 4, 16, 16, 1))  # two clients


@functools.cache
def gradients(net, compute: Compute):
    """Outputs, carry and gradients of two clients side by side."""
    net = net.build((16, 16, 1), 3, compute)
    params, carry = jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), 2))

    def loss(params, carry, x):
        logits, carry = net.apply(params, carry, x, jnp.ones(4), True)
        return jnp.sum(jnp.sin(logits)), (logits, carry)

    return jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))(params, carry, X)


def size(tree) -> float:
    return float(jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))))


@pytest.mark.parametrize(("net", "way"), TRIED)
def test_equals_float32_products(net, way) -> None:
    compute, tolerance = WAYS[way]
    found = (gradients(NETS[net], each) for each in (compute, Compute()))
    for name, a, b in zip(("gradient", "output", "carry"), *map(parts, found)):
        assert jax.tree.leaves(jax.tree.map(lambda x: x.dtype, a)) == [jnp.float32] * len(jax.tree.leaves(a)), name
        assert size(jax.tree.map(jnp.subtract, a, b)) <= tolerance * size(b), name


def parts(found):
    grads, (logits, carry) = found
    return grads, logits, carry


def test_bf16_is_not_float32() -> None:
    exact, coarse = (parts(gradients(NETS["CNN"], how))[0] for how in (Compute(), Compute("gemm", "bf16")))
    assert size(jax.tree.map(jnp.subtract, exact, coarse)) > 1e-4 * size(exact)


def test_remat_keeps_less_for_the_backward_pass() -> None:
    def kept(compute: Compute) -> int:
        net = CNNSettings(widths=(8, 16)).build((16, 16, 1), 3, compute)

        def residuals(key: jax.Array):
            params, carry = net.init(key)
            return jax.vjp(lambda params, x: net.apply(params, carry, x, jnp.ones(4), True)[0], params, X[0])[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(residuals, jax.random.key(0))))

    assert kept(Compute("direct", remat=True)) < 0.8 * kept(Compute("direct"))


def test_products_are_asked_for_in_the_precision_named() -> None:
    def precisions(precision: str) -> str:
        net = CNNSettings(widths=(8,)).build((16, 16, 1), 3, Compute("gemm", precision))
        model = jax.eval_shape(net.init, jax.random.key(0))
        return str(jax.make_jaxpr(lambda model, x: net.apply(*model, x, jnp.ones(4), True)[0])(model, X[0]))

    assert "Precision.HIGHEST," in precisions("float32")
    assert "Precision.HIGH," in precisions("tf32")
    assert "bf16" in precisions("bf16") and "HIGHEST" not in precisions("bf16")


def test_shapes_are_those_of_any_precision() -> None:
    shapes = {str(jax.eval_shape(lambda c=c: gradients(NETS["CNN"], c))) for c in (Compute(), Compute("gemm", "bf16"))}
    assert len(shapes) == 1
    assert np.all(np.isfinite(parts(gradients(NETS["CNN"], Compute("gemm", "bf16")))[1]))
