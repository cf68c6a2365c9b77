"""Weights of ResNet, VGG16 and EfficientNet from local files, as torchvision and timm name and lay out tensors.

`read` takes .safetensors files (package safetensors) and PyTorch state dicts (package torch, which reads the tensors
and runs nothing else in the file); `load_into` puts their tensors into a network. Two things may differ: where the
network's images have one channel and the file's had more, the first kernel is summed over them, for a grey picture is
the same in each; where the classes differ in number, the head stays as it was. `Loaded.notes` says so.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.nets.efficientnet import EfficientNetSettings, scaled_stages
from fedjax_mri.nets.resnet import ResNetSettings, stages
from fedjax_mri.nets.vgg import STAGES, VGGSettings

PyTree = Any
Tensors = dict[str, np.ndarray]
Shape = tuple[int, ...]
LayerPath = tuple[str | int, ...]  # of a layer in params and in carry
LayerNames = Iterator[tuple[LayerPath, str]]  # our layer, its name in the file; the first layer first

NamePair = tuple[str, str]  # the file's names of a convolution and its norm, or of two dense layers
BlockNames = Callable[[int, int, bool], tuple[NamePair, ...]]  # (stage, place in it, expands) -> its four pairs


class OuterNames(NamedTuple):
    """A file's names of the layers of an EfficientNet outside its blocks."""

    stem: NamePair
    top: NamePair
    head: str


HEAD: LayerPath = ("logits",)
TORCHVISION = OuterNames(("features.0.0", "features.0.1"), ("features.8.0", "features.8.1"), "classifier.1")
TIMM = OuterNames(("conv_stem", "bn1"), ("conv_head", "bn2"), "classifier")
TENSOR_NAMES = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class Loaded(NamedTuple):
    """A network's trees with a file's weights, and notes on what differs from the file."""

    params: PyTree
    carry: PyTree
    notes: tuple[str, ...]


def load_into(params: PyTree, carry: PyTree, settings: object, tensors: Mapping[str, np.ndarray], file: str) -> Loaded:
    """Returns `params` and `carry` of the network of `settings` with the values of a file's tensors.

    Tensors are named as torchvision or timm do. Raises UserError, naming the `file` and the tensor, with both shapes,
    that does not fit.
    """
    _check_norm(settings, file)
    given = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    layers = list(_layer_names(settings, given))
    names = dict(layers)
    shapes = {_name(names, path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path((params, carry))}
    values, notes = _converted(given, shapes, layers[0][1], names[HEAD])
    _check(values, shapes, file)
    filled_params, filled_carry = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(values.get(_name(names, path), leaf)), (params, carry)
    )
    return Loaded(filled_params, filled_carry, notes)


def _check_norm(settings: object, file: str) -> None:
    norms = ("batch", "none") if isinstance(settings, VGGSettings) else ("batch",)
    norm = getattr(settings, "norm", "batch")
    if norm not in norms:
        raise UserError(f"{file}: such weights want network.norm={' or '.join(norms)}, it is {norm}")


def _name(names: Mapping[LayerPath, str], path: tuple[Any, ...]) -> str:
    """Returns the file's name of the leaf at `path` of (params, carry); "" if it has none."""
    *layer, leaf = (step.key for step in path[1:])
    return f"{names[tuple(layer)]}.{TENSOR_NAMES[leaf]}" if tuple(layer) in names else ""


def _converted(given: Tensors, shapes: dict[str, Shape], first: str, head: str) -> tuple[Tensors, tuple[str, ...]]:
    """Returns the file's tensors laid out as ours, and notes on what differs.

    Removes from `shapes` what is not to be taken from the file: the head of other classes, and what has no name there.
    """
    values = {name: _transposed(value, len(shapes.get(name, ()))) for name, value in given.items()}
    kernel, logits = f"{first}.weight", f"{head}.weight"
    notes = ["the norm before the head is not in such files: it stays"] if shapes.pop("", ()) else []
    if kernel in values and values[kernel].ndim == 4 and shapes[kernel][2] == 1 < values[kernel].shape[2]:
        notes.append(f"{kernel}: summed over its {values[kernel].shape[2]} channels, the images have 1")
        values[kernel] = values[kernel].sum(2, keepdims=True)
    in_file, in_network = [0, *values.get(logits, np.zeros(0)).shape][-1], shapes[logits][-1]
    if in_file != in_network:
        notes.append(f"{head}: of {in_file} classes in the file, of {in_network} in the task: it stays")
        for name in (logits, f"{head}.bias"):
            values.pop(name, None)
            shapes.pop(name)
    return values, tuple(notes)


def _check(values: Tensors, shapes: Mapping[str, Shape], file: str) -> None:
    """Raises UserError at the first tensor that is missing, of another shape, or left over."""
    remedy = "give a file of this very network, or set network to the file's"
    for name, shape in shapes.items():
        if name not in values:
            raise UserError(f"{file}: has no {name}, the network wants one of shape {_file_shape(shape)}: {remedy}")
        if values[name].shape != shape:
            given = _file_shape(values[name].shape)
            raise UserError(f"{file}: {name} has shape {given}, the network wants {_file_shape(shape)}: {remedy}")
    for name in sorted(values.keys() - shapes.keys()):
        given = _file_shape(values[name].shape)
        raise UserError(f"{file}: {name} of shape {given} has no place in the network: {remedy}")


def read(file: Path) -> Tensors:
    """Returns the file's tensors by name, float32.

    Raises UserError where it cannot be read as one of the known kinds.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    readers = {".safetensors": _safetensors, ".pt": _torch, ".pth": _torch, ".bin": _torch}
    if file.suffix not in readers:
        raise UserError(f"{file}: unknown kind {file.suffix!r}; give one of {', '.join(readers)}")
    return readers[file.suffix](file)


def _safetensors(file: Path) -> Tensors:
    numpy = _package("safetensors.numpy", file)
    try:
        return {name: np.asarray(value, np.float32) for name, value in numpy.load_file(file).items()}
    except Exception as error:
        raise UserError(f"{file}: cannot be read as safetensors: {short_message(error)}") from error


def _torch(file: Path) -> Tensors:
    torch = _package("torch", file)
    try:
        given = torch.load(file, map_location="cpu", weights_only=True)
        for wrapped in ("state_dict", "model"):  # as training scripts save it
            given = given.get(wrapped, given)
        return {name.removeprefix("module."): value.float().numpy() for name, value in given.items()}
    except Exception as error:
        raise UserError(f"{file}: cannot be read as a PyTorch state dict: {short_message(error)}") from error


def _package(name: str, file: Path) -> Any:
    package = name.split(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{file}: reading it needs the package {package}: pip install {package}") from None


def _transposed(tensor: np.ndarray, axes: int) -> np.ndarray:
    """Returns a file's tensor laid out as ours.

    [O, I, h, w] becomes [h, w, I, O], or with fewer axes [h, w, O] or [h w I, O].
    """
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
        if axes == 3 and tensor.shape[2] == 1:
            return tensor[:, :, 0]
        return tensor.reshape(-1, tensor.shape[-1]) if axes == 2 else tensor
    return tensor.T


def _file_shape(shape: tuple[int, ...]) -> list[int]:
    """Returns a shape of ours in the order of a file's."""
    if len(shape) == 3:  # depthwise
        return [shape[2], 1, *shape[:2]]
    return [shape[3], shape[2], *shape[:2]] if len(shape) == 4 else list(shape[::-1])


def _layer_names(settings: object, tensors: Tensors) -> LayerNames:
    """Returns every layer of the network that `settings` describe, with its name in the file of these tensors."""
    if isinstance(settings, ResNetSettings):
        return _resnet(settings)
    if isinstance(settings, VGGSettings):
        return _vgg(settings, tensors)
    if isinstance(settings, EfficientNetSettings):
        timm = "conv_stem.weight" in tensors
        return _efficientnet(settings, *(TIMM, _timm) if timm else (TORCHVISION, _torchvision))
    raise UserError(f"network={type(settings).__name__}: weights load into ResNet, VGG16 and EfficientNet alone")


def _conv_norm(path: LayerPath, conv: str, norm: str) -> LayerNames:
    yield (*path, "conv"), conv
    yield (*path, "norm", "batch"), norm


def _resnet(settings: ResNetSettings) -> LayerNames:
    blocks, bottleneck = stages(settings.depth)
    yield from _conv_norm(("stem",), "conv1", "bn1")
    names = [f"layer{stage}.{n}" for stage, count in enumerate(blocks, 1) for n in range(count)]
    for number, name in enumerate(names):
        for layer in range(3 if bottleneck else 2):
            path = "blocks", number, "layers", layer
            yield from _conv_norm(path, f"{name}.conv{layer + 1}", f"{name}.bn{layer + 1}")
        yield from _conv_norm(("blocks", number, "shortcut"), f"{name}.downsample.0", f"{name}.downsample.1")
    yield HEAD, "fc"


def _vgg(settings: VGGSettings, tensors: Tensors) -> LayerNames:
    step = 2 if settings.norm == "none" else 3  # convolution, norm, ReLU
    position = number = 0
    for _, count in STAGES:
        for _ in range(count):
            yield ("convs", number), f"features.{position}"
            yield ("norms", number, "batch"), f"features.{position + 1}"
            position, number = position + step, number + 1
        position += 1  # the pool
    timm = "pre_logits.fc1.weight" in tensors
    names = (
        ("pre_logits.fc1", "pre_logits.fc2", "head.fc") if timm else ("classifier.0", "classifier.3", "classifier.6")
    )
    first, second, head = names
    _as_convolution(tensors, f"{first}.weight", settings.grid)
    yield from ((("hidden", 0), first), (("hidden", 1), second), (HEAD, head))


def _as_convolution(tensors: Tensors, name: str, grid: int) -> None:
    # The file's dense layer takes [C, H, W] flattened, ours [H, W, C]: it is transposed as a convolution's kernel is.
    dense = tensors.get(name, np.zeros(0))
    if dense.ndim == 2 and dense.shape[1] % grid**2 == 0:
        tensors[name] = dense.reshape(len(dense), -1, grid, grid)


def _efficientnet(settings: EfficientNetSettings, outer: OuterNames, block_names: BlockNames) -> LayerNames:
    yield from _conv_norm(("stem",), *outer.stem)
    for number, (stage, place, expands) in enumerate(_blocks(settings)):
        expand, depthwise, excite, project = block_names(stage, place, expands)
        here = "blocks", number
        if expands:
            yield from _conv_norm((*here, "expand"), *expand)
        yield (*here, "depthwise"), depthwise[0]
        yield (*here, "norm", "batch"), depthwise[1]
        yield (*here, "excite", "reduce"), excite[0]
        yield (*here, "excite", "expand"), excite[1]
        yield from _conv_norm((*here, "project"), *project)
    yield from _conv_norm(("top",), *outer.top)
    yield HEAD, outer.head


def _torchvision(stage: int, place: int, expands: bool) -> tuple[NamePair, ...]:
    name, first = f"features.{stage + 1}.{place}.block", 0 if expands else -1
    expand, middle, excite, project = (f"{name}.{first + part}" for part in range(4))
    pairs = [(f"{part}.0", f"{part}.1") for part in (expand, middle, project)]
    return pairs[0], pairs[1], (f"{excite}.fc1", f"{excite}.fc2"), pairs[2]


def _timm(stage: int, place: int, expands: bool) -> tuple[NamePair, ...]:
    name, (project, norm) = f"blocks.{stage}.{place}", ("conv_pwl", 2) if expands else ("conv_pw", 1)
    depthwise, last = (f"{name}.conv_dw", f"{name}.bn{norm}"), (f"{name}.{project}", f"{name}.bn{norm + 1}")
    return (f"{name}.conv_pw", f"{name}.bn1"), depthwise, (f"{name}.se.conv_reduce", f"{name}.se.conv_expand"), last


def _blocks(settings: EfficientNetSettings) -> Iterator[tuple[int, int, bool]]:
    """Yields each block's stage, its place in the stage, and whether it expands."""
    for number, stage in enumerate(scaled_stages(settings)):
        for place in range(stage.blocks):
            yield number, place, stage.expand > 1
