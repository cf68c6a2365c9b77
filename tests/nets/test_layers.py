"""The one convolution under all policies, the norms, the pools: against float64 loops and each other."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import covering
from flax import nnx

from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.conv2d import conv2d
from fedjax_mri.nets.conv.depthwise import depthwise
from fedjax_mri.nets.conv.pool import max_pool, overlapping_max_pool
from fedjax_mri.nets.conv.transposed import conv2d_transpose
from fedjax_mri.nets.norm import Norm, group_norm, instance_norm

POLICIES = ["xla", "gemm", "direct", "each"]
# whole programs: each operation of a policy would be compiled by itself
WAYS = ("stride", "policy", "padding", "dilation")
convolved, by_channel, upsampled = (
    jax.jit(layer, static_argnames=[name for name in WAYS if name in inspect.signature(layer).parameters])
    for layer in (conv2d, depthwise, conv2d_transpose)
)


def assert_all_close(actual, wanted) -> None:
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


WINDOWS = [  # size, window, stride, padding
    ((6, 6), (3, 3), 1, "SAME"),
    ((7, 5), (3, 3), 2, "SAME"),
    ((5, 8), (1, 1), 2, "SAME"),
    ((8, 7), (7, 7), 2, 3),
    ((7, 8), (4, 3), 1, ((0, 2), (1, 0))),
]


@pytest.mark.parametrize(("policy", "shape", "outputs"), covering(POLICIES, WINDOWS, [4, 1]))
def test_convolution_equals_a_loop(policy, shape, outputs) -> None:
    size, window, stride, padding = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 4)).astype(np.float32)
    kernel = rng.normal(size=(*window, 4, outputs)).astype(np.float32)
    pads = reference.same(size, window, stride) if padding == "SAME" else padding
    wanted = reference.conv(x, kernel, stride, pads)
    np.testing.assert_allclose(convolved(x, kernel, stride, policy, padding), wanted, atol=2e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(8, 7), (2, 3)])
def test_a_dilated_convolution_is_one_with_zeros_in_its_kernel(policy, size) -> None:
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, *size, 4), (3, 3, 4, 5)))
    spread = np.zeros((7, 7, 4, 5))
    spread[::3, ::3] = kernel
    wanted = reference.conv(x, spread, 1, 3)
    np.testing.assert_allclose(convolved(x, kernel, 1, policy, dilation=3), wanted, atol=2e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("side", [3, 4])
def test_transposed_convolution_scatters_each_pixel(policy, side) -> None:
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=size).astype(np.float32) for size in ((2, 3, 4, 3), (side, side, 3, 5)))
    np.testing.assert_allclose(upsampled(x, kernel, policy), reference.conv_transpose(x, kernel), atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (5, 2), (3, 2)])
def test_depthwise_convolution_is_one_convolution_for_each_channel(policy, side, stride) -> None:
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=size).astype(np.float32) for size in ((2, 7, 8, 3), (side, side, 3)))
    pads = side // 2
    each = [reference.conv(x[..., c : c + 1], kernel[..., c, None, None], stride, pads) for c in range(3)]
    np.testing.assert_allclose(by_channel(x, kernel, stride, policy, pads), np.concatenate(each, -1), atol=1e-5)


def test_depthwise_policies_have_the_same_gradients_under_vmap_over_kernels() -> None:
    x, kernels = jax.random.normal(jax.random.key(0), (2, 6, 5, 4)), jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def gradient(policy):
        loss = lambda k, x: jnp.sum(jnp.sin(depthwise(x, k, 2, policy, 1)))  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (0, None)))(kernels, x)

    for a, b in zip(gradient("xla"), gradient("gemm")):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@functools.cache  # of "xla" for all that are compared with it
def gradients_of_clients(policy: str, shared: int | None, window: tuple[int, int], inputs: int, outputs: int):
    """Gradients by kernels and images of three clients, whose images are the same ones or their own."""
    shape = (2, 6, 5, inputs) if shared is None else (3, 2, 6, 5, inputs)
    x, kernels = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([shape, (3, *window, inputs, outputs)]))
    loss = lambda k, x: jnp.sum(jnp.sin(conv2d(x, k, 1, policy)))  # noqa: E731
    return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (0, shared)))(kernels, x)


KERNELS = [((3, 3), 4, 4), ((3, 3), 4, 1), ((4, 3), 9, 2), ((3, 3), 16, 17), ((4, 2), 17, 16), ((3, 2), 128, 130)]


@pytest.mark.parametrize(("policy", "kernel", "shared"), covering(["gemm", "direct", "each"], KERNELS, [None, 0]))
def test_policies_have_the_same_gradients_under_vmap_over_kernels(policy, kernel, shared) -> None:
    """The images are one batch for all clients, or a batch each."""
    given = shared, *kernel
    for a, b in zip(gradients_of_clients("xla", *given), gradients_of_clients(policy, *given)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "pad"), [(2, 1), (2, 2), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)])
def test_direct_has_the_same_gradients_whichever_is_larger(side: int, pad: int) -> None:
    """Image, kernel and result are each the largest once; what the compiler has no fast kernel for goes another way."""
    x, kernel = jax.random.normal(jax.random.key(0), (2, side, side, 16)), jnp.linspace(-1, 1, 9 * 16 * 16)

    def gradient(policy):
        loss = lambda x, k: jnp.sum(jnp.sin(conv2d(x, k.reshape(3, 3, 16, 16), 1, policy, pad)))  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1)))(x, kernel)

    for a, b in zip(gradient("xla"), gradient("direct")):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


STRIDED = [  # size, window, stride, dilation, padding, channels
    ((8, 7), (3, 3), 2, 1, 1, (16, 33)),  # the window leaves out the last row of zeros
    ((9, 6), (4, 4), 3, 1, ((0, 1), (2, 0)), (17, 32)),
    ((35, 36), (3, 3), 2, 1, 0, (2, 32)),  # the output's gradient is too large for a kernel
    ((34, 34), (7, 7), 2, 1, 3, (1, 32)),
    ((17, 17), (3, 3), 1, 1, 1, (64, 64)),
    ((17, 17), (3, 3), 1, 1, 1, (2, 64)),
    ((17, 17), (3, 3), 1, 1, 1, (16, 32)),
    ((9, 9), (3, 3), 1, 3, 3, (8, 32)),
    ((12, 12), (3, 3), 2, 2, 2, (8, 32)),
    ((4, 4), (3, 3), 2, 1, 1, (8, 256)),  # many outputs at few positions
    ((8, 8), (1, 1), 2, 1, 0, (8, 32)),
]
SIMILAR = STRIDED[3], STRIDED[6], STRIDED[8]  # to others, in what the layer does


@pytest.mark.parametrize(
    ("policy", "size", "window", "stride", "dilation", "padding", "channels"),
    [
        *(pytest.param("direct", *one, marks=[pytest.mark.thorough] * (one in SIMILAR)) for one in STRIDED),
        *(("gemm", *one) for one in STRIDED[:9:8]),
    ],
)
def test_strides_and_dilations_have_the_same_gradients_in_each_way(
    policy, size, window, stride, dilation, padding, channels
) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *size, channels[0]))
    kernels = jax.random.normal(jax.random.key(1), (2, *window, *channels)) / 10

    def gradient(policy):
        return jax.grad(lambda x, k: jnp.sum(jnp.sin(conv2d(x, k, stride, policy, padding, dilation))), (0, 1))

    wanted = [jax.jit(gradient("xla"))(x, kernel) for kernel in kernels]
    together = jax.jit(jax.vmap(gradient(policy), (None, 0)))(x, kernels)
    alone = jax.jit(gradient(policy))(x, kernels[0])
    for number in range(2):
        assert_all_close([part[number] for part in together], wanted[number])
    assert_all_close(alone, wanted[0])


def test_direct_leaves_to_others_what_the_compiler_has_no_fast_kernel_for() -> None:
    def products(side: int, outputs: int) -> str:
        shapes = (
            jax.ShapeDtypeStruct((1, side, side, 16), "float32"),
            jax.ShapeDtypeStruct((3, 3, 16, outputs), "float32"),
        )
        return str(jax.make_jaxpr(lambda x, k: conv2d(x, k, 1, "direct"))(*shapes))

    assert all("conv_general_dilated" in products(*many) for many in ((3, 16), (32, 256)))
    assert all("conv_general_dilated" not in products(*few) for few in ((2, 16), (3, 256)))


def test_direct_takes_many_images_of_one_kernel() -> None:
    x, kernel = (
        jax.random.normal(jax.random.key(0), (5, 2, 6, 6, 3)),
        jax.random.normal(jax.random.key(1), (3, 3, 3, 4)),
    )
    each = jax.vmap(lambda x: conv2d(x, kernel, 1, "direct"))(x)
    np.testing.assert_allclose(each, jnp.stack([conv2d(one, kernel, 1, "xla") for one in x]), atol=1e-5)


def compiled_convolutions(policy: str, x: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
    """Returns the groups of each convolution that three clients with kernels of their own need for a step."""
    shapes = (jax.ShapeDtypeStruct(x, "float32"), jax.ShapeDtypeStruct(kernel, "float32"))
    loss = lambda x, k: jnp.sum(jnp.sin(conv2d(x, k, 1, policy)))  # noqa: E731
    text = jax.jit(jax.vmap(jax.grad(loss, (0, 1)))).lower(*shapes).as_text()
    groups = zip(*(re.findall(rf"{kind}_group_count = (\d+)", text) for kind in ("batch", "feature")))
    return [max(map(int, pair)) for pair in groups]


def test_each_groups_no_clients_and_has_one_convolution_of_each_kind_for_each_client() -> None:
    shapes = (3, 2, 12, 12, 8), (3, 3, 3, 8, 8)
    assert compiled_convolutions("each", *shapes) == [1] * 9
    assert max(compiled_convolutions("xla", *shapes)) == 3


@pytest.mark.parametrize(
    ("x", "kernel"),
    [((12, 12, 8), (1, 1, 8, 8)), ((12, 12, 1), (3, 3, 1, 16)), ((2, 2, 64), (3, 3, 64, 64))],
    ids=["a window of one pixel", "one input", "few positions"],
)
def test_each_leaves_layers_with_small_windows_to_a_product(x, kernel) -> None:
    assert compiled_convolutions("each", (3, 2, *x), (3, *kernel)) == []


@pytest.mark.parametrize(("stride", "dilation", "padding"), [(2, 1, 1), (1, 2, "SAME"), (2, 1, ((0, 2), (1, 0)))])
def test_each_has_the_gradients_of_strides_and_dilations_under_two_maps(stride, dilation, padding) -> None:
    x, kernels = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 3, 2, 9, 8, 4), (2, 3, 3, 3, 4, 5)])
    )

    def gradient(policy):
        loss = lambda k, x: jnp.sum(jnp.sin(conv2d(x, k, stride, policy, padding, dilation)))  # noqa: E731
        return jax.jit(jax.vmap(jax.vmap(jax.grad(loss, (0, 1)))))(kernels, x)

    for a, b in zip(gradient("xla"), gradient("each")):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool_and_its_gradient_equal_a_loop(size) -> None:
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3), jnp.float32).reshape(2, *size, 3)
    weight = jax.random.normal(jax.random.key(1), (2, size[0] // 2, size[1] // 2, 3))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weight * max_pool(x))))(x)
    largest = np.asarray(jax.jit(max_pool)(x))
    images, expected, weight = np.asarray(x), np.zeros(x.shape, np.float32), np.asarray(weight)
    for b, i, j, c in np.ndindex(*weight.shape):
        square = images[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        assert largest[b, i, j, c] == square.max()
        row, column = np.unravel_index(square.argmax(), (2, 2))
        expected[b, 2 * i + row, 2 * j + column, c] = weight[b, i, j, c]
    np.testing.assert_array_equal(gradient, expected)


def test_max_pool_gives_the_gradient_to_the_first_of_equals() -> None:
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x))))(jnp.ones((1, 2, 4, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_group_norm_equals_flax() -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 5, 16))
    reference = nnx.GroupNorm(16, 8, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jax.jit(group_norm, static_argnums=1)(x, 8), jax.jit(reference)(x), atol=2e-5)


def test_the_gradient_of_instance_norm_equals_that_of_flax_and_saves_one_image() -> None:
    x, weight = (jax.random.normal(jax.random.key(i), (2, 5, 4, 16)) for i in range(2))
    x = 3 + 2 * x
    reference = nnx.GroupNorm(16, 16, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    wanted = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(weight * reference(x)))))(x)
    found = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(weight * instance_norm(x)))))(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    saved = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(instance_norm, x)[1], x))
    assert sum(leaf.size == x.size for leaf in saved) == 1
    assert np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(instance_norm(x)))))(jnp.ones_like(x))).all()


def test_batch_norm_leaves_padding_out() -> None:
    x, present = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)), jnp.array([1.0, 1, 1, 0])
    trained = nnx.jit(lambda norm, x, present: norm(x, present, True))
    norm = Norm(2, "batch", rngs=nnx.Rngs(0))
    whole = trained(norm, x, present)[:3]
    alone = trained(Norm(2, "batch", rngs=nnx.Rngs(0)), x[:3], present[:3])
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    np.testing.assert_allclose(norm.batch.mean[...], 0.1 * x[:3].mean((0, 1, 2)), atol=1e-6)


def test_max_pool_takes_the_largest_and_drops_an_odd_edge() -> None:
    x = jnp.arange(2 * 5 * 4, dtype=jnp.float32).reshape(1, 5, 8, 1)
    np.testing.assert_array_equal(np.asarray(jax.jit(max_pool)(x))[0, :, :, 0], [[9, 11, 13, 15], [25, 27, 29, 31]])


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_overlapping_max_pool_sees_three_by_three(size) -> None:
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, *size, 3)))
    np.testing.assert_array_equal(overlapping_max_pool(jnp.asarray(x)), reference.max_pool(x))


def test_instance_norm_is_by_image_and_channel() -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 9, 5, 4))
    wanted = (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), wanted, atol=2e-5)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_net_is_two_pure_functions(norm) -> None:
    net = CNNSettings(widths=(8, 16), hidden=4, norm=norm).build((8, 8, 1), 3, Compute())
    params, carry = jax.jit(net.init)(jax.random.key(0))
    logits, after = jax.jit(net.apply, static_argnums=4)(params, carry, jnp.ones((2, 8, 8, 1)), jnp.ones(2), True)
    assert logits.shape == (2, 3)
    assert bool(jax.tree.leaves(carry)) == (norm == "batch")
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    leaves = jax.tree.leaves(params)
    assert all(type(leaf) is type(jnp.zeros(1)) for leaf in leaves)
    weights = 9 * 8 + 9 * 8 * 16 + (4 * 16 + 1) * 4 + (4 + 1) * 3
    assert sum(leaf.size for leaf in leaves) == weights + (24 if norm == "none" else 48)
