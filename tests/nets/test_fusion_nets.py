"""Fusion networks: attention and 3D convolution as NumPy has them, counts by hand, nothing seen of what is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.attention import attend, positional_encoding
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.conv2d import conv3d
from fedjax_mri.nets.fusion import Cross, Early, Late, present_with
from fedjax_mri.nets.resnet import ResNetEncoder
from fedjax_mri.nets.volume import VolumeEncoder

IMAGE, VOLUME, CLASSES = (16, 16, 1), (2, 4, 4, 1), 3
SMALL, DEEP = VolumeEncoder(widths=(4,)), VolumeEncoder(widths=(8, 16))
NETS = {
    "cross": Cross(SMALL, SMALL, width=8, heads=2, hidden=4),
    "early": Early(SMALL, hidden=4),
    "late": Late(encoder=SMALL, hidden=4),
}


def test_attention_equals_a_loop_over_queries() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, size, 2, 4)) for size in (3, 5, 5))
    there = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    found = attend(*(jnp.asarray(x, jnp.float32) for x in (query, key, value)), jnp.asarray(there))
    wanted = np.zeros((2, 3, 2, 4))
    for t, h in np.ndindex(3, 2):
        weights = np.exp(key[0, there[0], h] @ query[0, t, h] / 2)
        wanted[0, t, h] = weights / weights.sum() @ value[0, there[0], h]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_attention_has_a_gradient_where_no_key_is_there() -> None:
    x = jnp.ones((1, 3, 1, 4))
    gradient = jax.grad(lambda q, k, v: attend(q, k, v, jnp.zeros((1, 3), bool)).sum(), (0, 1, 2))(x, x, x)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradient)


def test_positions_name_places_whatever_the_grid() -> None:
    fine, coarse = positional_encoding((6, 6), 16), positional_encoding((2, 2), 16)
    assert fine.shape == (36, 16) and len(np.unique(fine.round(5), axis=0)) == 36
    np.testing.assert_allclose(fine[1 * 6 + 1], coarse[0], atol=1e-6)  # the middle of the first quarter
    assert positional_encoding((2, 3, 3), 8).shape == (18, 8)


def test_3d_convolution_is_the_compilers() -> None:
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 6, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 3, 2)), jnp.float32)
    layout = ("NDHWC", "DHWIO", "NDHWC")
    wanted = jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(conv3d(x, kernel, "gemm"), wanted, atol=1e-4)


def test_batch_norm_counts_those_who_have_it_and_all_where_nobody_has() -> None:
    present, has = jnp.array([1.0, 1, 0]), jnp.array([0.0, 1, 1])
    np.testing.assert_array_equal(present_with(present, has), [0, 1, 0])
    np.testing.assert_array_equal(present_with(present, 0 * has), present)


def feed_forward(features: int, hidden: int, classes: int) -> int:
    return (features + 1) * hidden + (hidden + 1) * classes


def test_parameters_counted_by_hand() -> None:
    """Published size: ResNet-18 without its logits has 11,689,512 - 1000 x 513 - 2 x 64 x 49 parameters in grey."""
    resnet, classes = 11_689_512 - 513_000 - 2 * 64 * 49, 4
    attention = 3 * (512 + 1) * 128
    learnt, alone = 512 + 128, 2 * 513 * classes
    cross = 2 * resnet + attention + learnt + alone + feed_forward(512 + 128, 128, classes)
    volume = 27 * 1 * 8 + 2 * 8 + 27 * 8 * 16 + 2 * 16
    wanted = [
        (Cross(), (240, 240, 1), True, cross + feed_forward(640, 128, classes)),
        (Early(), (240, 240, 1), False, resnet + 64 * 49 + feed_forward(512, 128, classes)),
        (Late(encoder=DEEP, hidden=4), VOLUME, False, 2 * (volume + feed_forward(16, 4, classes))),
    ]
    for settings, image, own, count in wanted:
        net = settings.build(image, classes, Compute(), own)
        assert trees.count(jax.eval_shape(net.init, jax.random.key(0))[0]) == count


def patients() -> dict[str, jax.Array]:
    """Four who have both, CT, MR and nothing."""
    rng = np.random.default_rng(2)
    images = {name: jnp.asarray(rng.uniform(size=(4, *VOLUME)), jnp.float32) for name in ("ct", "mr")}
    return {**images, "has": jnp.asarray([[1, 1], [1, 0], [0, 1], [0, 0]], jnp.float32)}


@pytest.mark.parametrize("name", NETS)
def test_what_is_missing_does_not_matter(name) -> None:
    """Logits do not see its pixels, and neither they nor gradients are lost to it."""
    net = NETS[name].build(VOLUME, CLASSES, Compute("xla"), client_heads=True)
    given, rng = patients(), np.random.default_rng(3)
    params, carry = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda p: rng.normal(0, 0.3, p.shape).astype(np.float32), params)

    def cost(params, ct, mr):
        outputs = net.apply(params, carry, ct, mr, given["has"], jnp.ones(4), True)[0]
        return sum(jnp.sum(x**2) for x in outputs.values()), outputs

    step = jax.jit(jax.grad(cost, has_aux=True))
    gone = [
        jnp.where(given["has"][:, i, None, None, None, None] > 0, given[m], 7.0) for i, m in enumerate(("ct", "mr"))
    ]
    (gradient, first), (_, second) = step(params, given["ct"], given["mr"]), step(params, *gone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first, second)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, first)))
    assert set(first) == {"fusion", "server"} | ({"ct", "mr"} if name != "early" else set())
    other = step(params, given["ct"][::-1], given["mr"])[1]["fusion"]
    assert np.abs(other - first["fusion"])[:2].max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "image", "says"),
    [
        (Cross(DEEP, ResNetEncoder()), IMAGE, "network.ct: VolumeEncoder wants volumes"),
        (Early(ResNetEncoder()), VOLUME, "network.encoder: ResNetEncoder wants images"),
        (Cross(width=10, heads=4), IMAGE, "network.width=10, network.heads=4"),
        (Cross(hidden=0), IMAGE, "network.hidden=0"),
        (Late(("pet",)), IMAGE, "network.modalities"),  # type: ignore[arg-type]
        (Early(ResNetEncoder(stages=5)), IMAGE, "network.encoder.stages=5"),
        (Early(VolumeEncoder((8,) * 3)), VOLUME, "want 8 px or more"),
    ],
)
def test_impossible_settings_are_refused(settings, image, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build(image, CLASSES, Compute())
