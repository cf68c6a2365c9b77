"""U-Net, Double U-Net and UNIT: what they compute against float64 loops, and what their keys and weights do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import reference

from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.double_unet import DoubleUNetSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.nets.unit import ScalesSettings, UNITSettings

X = np.random.default_rng(0).uniform(-1, 1, (2, 8, 16, 1)).astype(np.float32)
SMALL = UNetSettings(depth=3, width=2, norm="instance")


def known(init):
    """Parameters of a plain size, so that nothing hides: N(0, .3)."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), init)


def instance(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)


def relu(x: np.ndarray, slope: float = 0.0) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def test_a_unet_joins_across_what_it_halved() -> None:
    net = SMALL.build(X.shape[1:], Compute())
    params = known(jax.eval_shape(net.init, jax.random.key(0))[0])

    def down(i, x):
        layer = params["down"][i]
        return reference.conv(x, layer["kernel"], 2, 1) + layer["bias"]

    def up(layer, x):
        return reference.conv_transpose(relu(x), layer["kernel"]) + layer["bias"]

    half = down(0, X)
    quarter = instance(down(1, relu(half, 0.2)))
    deep = down(2, relu(quarter, 0.2))
    y = np.concatenate([quarter, instance(up(params["up"][0], deep))], -1)
    y = np.concatenate([half, instance(up(params["up"][1], y))], -1)
    np.testing.assert_allclose(jax.jit(net.apply)(params, {}, X)[0], np.tanh(up(params["last"], y)), atol=1e-4)


def test_an_instance_normed_unet_uses_a_bottleneck_of_one_pixel() -> None:
    """A norm over one pixel would leave its biases alone, the same for every image."""
    net = SMALL.build((8, 8, 1), Compute())
    params, x = known(jax.eval_shape(net.init, jax.random.key(0))[0]), jnp.asarray(X[:, :, :8])
    gradient = jax.jit(jax.grad(lambda p: net.apply(p, {}, x)[0][..., 0].std()))(params)
    assert float(jnp.abs(gradient["down"][2]["kernel"]).max()) > 1e-4


def test_a_key_samples_a_unet_s_images_and_without_one_nothing_drops() -> None:
    x = jnp.asarray(X)
    net = SMALL.build(X.shape[1:], Compute())
    still = dataclasses.replace(SMALL, dropout=0.0).build(X.shape[1:], Compute())
    params = known(jax.eval_shape(net.init, jax.random.key(0))[0])
    sample = jax.jit(lambda key: net.apply(params, {}, x, None, False, key)[0])
    first, again, other = (sample(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 0.01
    whole = jax.jit(lambda key: still.apply(params, {}, x, None, False, key)[0])(jax.random.key(0))
    np.testing.assert_allclose(sample(None), whole, atol=1e-5)


def test_batch_norm_of_a_unet_leaves_padding_out_and_remembers() -> None:
    net = UNetSettings(depth=2, width=2).build(X.shape[1:], Compute())
    params, carry = jax.jit(net.init)(jax.random.key(0))
    padded, present = jnp.concatenate([X, 9 * X[:1]]), jnp.array([1.0, 1, 0])
    apply = jax.jit(lambda x, present: net.apply(params, carry, x, present, True))
    (made, after), (alone, wanted) = apply(padded, present), apply(X, jnp.ones(2))
    np.testing.assert_allclose(made[:2], alone, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, wanted)
    assert any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(carry)))


def test_the_second_unet_sees_the_input_where_the_first_lets_it() -> None:
    """With a gate shut for good the second U-Net sees black, and the image reaches it only across from the first."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 1)).astype(np.float32)
    net = DoubleUNetSettings(width=2).build(x.shape[1:], Compute("xla"))  # compiles fastest
    params = known(jax.eval_shape(net.init, jax.random.key(0))[0])
    made = jax.jit(lambda params, x: net.apply(params, {}, x)[0])
    y = made(params, x)
    assert y.shape == x.shape
    assert 0 < float(jnp.abs(y).max()) <= 1
    shut = params | {"gate": {"kernel": 0 * params["gate"]["kernel"], "bias": jnp.full(1, -100.0)}}
    blind = shut | {"encoder1": jax.tree.map(jnp.zeros_like, params["encoder1"])}
    assert float(jnp.abs(made(shut, x) - y).max()) > 1e-4
    assert float(jnp.abs(made(shut, x) - made(shut, x[::-1])).max()) > 1e-4
    np.testing.assert_allclose(made(blind, x), made(blind, x[::-1]), atol=1e-6)


def test_an_autoencoder_equals_a_float64_loop() -> None:
    x = X[:, :, :12]
    net = UNITSettings(width=2, blocks=2).build(x.shape[1:], Compute())
    params = known(jax.eval_shape(net.init, jax.random.key(0)))

    def conv(layer, x, stride=1):
        border = (len(layer["kernel"]) - 1) // 2
        x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), mode="reflect")
        return reference.conv(x, layer["kernel"], stride, 0) + layer["bias"]

    def residual(blocks, number, x):
        first, second = (jax.tree.map(lambda leaf: leaf[number], blocks[name]) for name in ("first", "second"))
        return x + instance(conv(second, relu(instance(conv(first, x)))))

    own = params["encoder"]
    code = relu(instance(conv(own["first"]["conv"], x)))
    for layer in own["down"].values():
        code = relu(instance(conv(layer["conv"], code, 2)))
    for number in range(2):
        code = residual(own["blocks"], number, code)
    np.testing.assert_allclose(jax.jit(net.encode)(params, x), code, atol=2e-4)
    own, y = params["decoder"], code
    for number in range(2):
        y = residual(own["blocks"], number, y)
    for layer, norm in zip(own["up"].values(), own["norms"].values()):
        y = conv(layer["conv"], y.repeat(2, 1).repeat(2, 2))
        y = (y - y.mean((1, 2, 3), keepdims=True)) / np.sqrt(y.var((1, 2, 3), keepdims=True) + 1e-5)
        y = relu(y * norm["scale"] + norm["bias"])
    wanted = np.tanh(conv(own["last"]["conv"], y))
    np.testing.assert_allclose(jax.jit(net.decode)(params, code.astype(np.float32)), wanted, atol=2e-4)


def test_a_discriminator_of_scales_scores_each() -> None:
    net = ScalesSettings(width=2, halvings=2, scales=2).build((9, 12, 1), Compute())
    params, _ = jax.eval_shape(net.init, jax.random.key(0))
    fine, coarse = jax.eval_shape(net.apply, params, {}, jnp.ones((2, 9, 12, 1)))[0]
    assert (fine.shape, coarse.shape) == ((2, 2, 3, 1), (2, 1, 1, 1))
