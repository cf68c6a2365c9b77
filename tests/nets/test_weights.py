"""Weights of torchvision and timm: their logits to 1e-4 where those libraries are, and the rules without them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets import weights
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.efficientnet import EfficientNetSettings
from fedjax_mri.nets.head import HeadSettings
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.vgg import VGGSettings

NETS = {
    "resnet18": ResNetSettings(18, norm="batch"),
    "resnet34": ResNetSettings(34, norm="batch"),
    "resnet50": ResNetSettings(50, norm="batch"),
    "vgg16": VGGSettings(),
    "vgg16_bn": VGGSettings(norm="batch"),
    "efficientnet_b1": EfficientNetSettings(1.0, 1.1, norm="batch"),
    "efficientnet_b3": EfficientNetSettings(1.2, 1.4, norm="batch"),
}
TINY = {
    "ResNet-18": ResNetSettings(18, width=2, norm="batch"),
    "ResNet-50": ResNetSettings(50, width=2, norm="batch"),
    "VGG16": VGGSettings(width=1, hidden=3, grid=2),
    "VGG16, BatchNorm": VGGSettings(width=1, hidden=3, grid=2, norm="batch"),
    "EfficientNet": EfficientNetSettings(0.1, 0.3, norm="batch"),
}


@functools.cache
def shapes(settings, channels=3, classes=5):
    return jax.eval_shape(settings.build((32, 32, channels), classes, Compute()).init, jax.random.key(0))


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1.0, leaf.shape).astype(np.float32), tree)


def theirs(settings, params, carry, extra=None) -> dict[str, np.ndarray]:
    """The trees as torchvision lays them out (timm where `extra` holds a name of its own), the rules written again."""
    found = dict(extra or {})
    pairs = dict(weights._layer_names(settings, found))
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, carry)):
        *place, last = (step.key for step in path[1:])
        if tuple(place) not in pairs:
            continue
        value = np.asarray(leaf)
        if last == "kernel" and "excite" in place:
            value = value.T[:, :, None, None]
        elif last == "kernel" and place == ["hidden", 0]:
            value = value.reshape(settings.grid, settings.grid, -1, value.shape[-1]).transpose(3, 2, 0, 1)
            value = value.reshape(len(value), -1)
        elif last == "kernel":
            value = value[:, :, None] if value.ndim == 3 else value
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        suffix = {"mean": "running_mean", "var": "running_var", "bias": "bias"}.get(last, "weight")
        found[f"{pairs[tuple(place)]}.{suffix}"] = value
    return found


@pytest.mark.parametrize("name", TINY)
def test_every_tensor_finds_its_leaf(name) -> None:
    settings = TINY[name]
    params, carry = drawn(shapes(settings))
    tensors = theirs(settings, params, carry) | {"bn1.num_batches_tracked": np.int64(3)}
    loaded = weights.load_into(*drawn(shapes(settings), 1), settings, tensors, "file")
    jax.tree.map(np.testing.assert_array_equal, loaded[:2], (params, carry))
    assert loaded.notes == ()


def test_timm_names_find_their_leaves() -> None:
    settings = TINY["EfficientNet"]
    params, carry = drawn(shapes(settings))
    tensors = theirs(settings, params, carry, {"conv_stem.weight": np.zeros(1)})
    assert "blocks.1.0.conv_pwl.weight" in tensors
    loaded = weights.load_into(*drawn(shapes(settings), 1), settings, tensors, "file")
    jax.tree.map(np.testing.assert_array_equal, loaded[:2], (params, carry))


def test_one_channel_and_other_classes_are_said() -> None:
    """A grey picture gives the same features in one channel as in three, and the head stays as it was."""
    settings = TINY["ResNet-18"]
    params, carry = drawn(shapes(settings))
    own = drawn(shapes(settings, 1, 7), 1)
    loaded = weights.load_into(*own, settings, theirs(settings, params, carry), "file")
    kernel = loaded.params["stem"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel, params["stem"]["conv"]["kernel"].sum(2, keepdims=True), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, loaded.params["logits"], own[0]["logits"])
    assert [note.split(":")[0] for note in loaded.notes] == ["conv1.weight", "fc"]
    assert "of 5 classes in the file, of 7 in the task" in loaded.notes[1]


def test_the_norm_before_a_head_stays() -> None:
    settings = EfficientNetSettings(0.1, 0.3, norm="batch", head=HeadSettings("batch"))
    tensors = theirs(settings, *drawn(shapes(settings)))
    own = drawn(shapes(settings), 1)
    loaded = weights.load_into(*own, settings, tensors, "file")
    np.testing.assert_array_equal(
        loaded.params["logits"]["norm"]["batch"]["scale"], own[0]["logits"]["norm"]["batch"]["scale"]
    )
    assert "norm before the head" in loaded.notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("layer1.0.conv2.weight"), r"no layer1.0.conv2.weight, .* shape \[2, 2, 3, 3\]"),
        (
            lambda t: t.update({"layer1.0.conv2.weight": np.zeros((4, 2, 3, 3), np.float32)}),
            r"layer1.0.conv2.weight has shape \[4, 2, 3, 3\], the network wants \[2, 2, 3, 3\]",
        ),
        (
            lambda t: t.update({"layer1.2.conv1.weight": np.zeros((2, 2, 3, 3), np.float32)}),
            r"layer1.2.conv1.weight of shape \[2, 2, 3, 3\] has no place",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_shapes(change, says) -> None:
    settings = TINY["ResNet-18"]
    tensors = theirs(settings, *drawn(shapes(settings)))
    change(tensors)
    with pytest.raises(UserError, match=says) as caught:
        weights.load_into(*drawn(shapes(settings)), settings, tensors, "FILE.pt")
    assert str(caught.value).startswith("FILE.pt: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (ResNetSettings(), "want network.norm=batch, it is group"),
        (VGGSettings(norm="group"), "want network.norm=batch or none"),
        (CNNSettings(norm="batch"), "network=CNNSettings"),
    ],
)
def test_networks_that_no_file_fits_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        weights.load_into({}, {}, settings, {}, "file")


def test_files_that_cannot_be_read_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no such file"):
        weights.read(tmp_path / "none.pt")
    for name, says in (("a.h5", "unknown kind '.h5'"), ("a.pt", "torch|PyTorch"), ("a.safetensors", "safetensors")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=says) as caught:
            weights.read(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_files_give_their_tensors(kind, tmp_path) -> None:
    file, tensors = tmp_path / f"a.{kind}", {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    if kind == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file(tensors, file)
    else:
        torch = pytest.importorskip("torch")
        torch.save({"state_dict": {"module.fc.weight": torch.tensor(tensors["fc.weight"])}, "epoch": 3}, file)
    np.testing.assert_array_equal(weights.read(file)["fc.weight"], tensors["fc.weight"])


def network(library: str, name: str):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    if library == "timm":
        net = pytest.importorskip("timm").create_model(name, num_classes=10)
    else:
        net = getattr(pytest.importorskip("torchvision.models"), name)(num_classes=10)
    for value in net.state_dict().values():  # so that no scale is 1 and no bias or mean 0
        if value.ndim == 1:
            value += 0.05 * torch.rand_like(value)
    return torch, net.eval()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_logits_equal_those_of_other_libraries(library, name, tmp_path) -> None:
    torch, net = network(library, name)
    side = 224 if name.startswith("vgg") and library == "timm" else 96  # timm's VGG pools after its dense layers
    torch.save(net.state_dict(), tmp_path / "net.pt")
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    ours = NETS[name].build(x.shape[1:], 10, Compute("xla"))
    trees, tensors = jax.eval_shape(ours.init, jax.random.key(0)), weights.read(tmp_path / "net.pt")
    loaded = weights.load_into(*trees, NETS[name], tensors, "net.pt")
    logits = jax.jit(lambda p, c, x: ours.apply(p, c, x, jnp.ones(2), False)[0])(loaded.params, loaded.carry, x)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
