"""Captum's and pytorch-grad-cam's explanations of the CNN of workload W1: for each a line of JSON, and its maps."""

import argparse
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytorch_grad_cam
import torch
from captum import attr
from captum.attr._utils.lrp_rules import EpsilonRule
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import workloads

ACROSS, SIDE = 7, 4  # superpixels along a side; px of the occluding square, an eighth of the image
Explain = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--images", type=int, default=1_000)
    words.add_argument("--chunk", type=int, default=100)
    words.add_argument("--methods", nargs="+", required=True)
    words.add_argument("--maps", type=pathlib.Path, required=True, help="folder for an .npy of each method's maps")
    chosen = words.parse_args()
    warnings.simplefilter("ignore")
    workload = workloads.WORKLOADS["W1"]
    net = common.torch_cnn(workload).eval()
    images, labels = (torch.from_numpy(array[: chosen.images]) for array in common.inputs(workload))
    chunks = list(zip(images.permute(0, 3, 1, 2).contiguous().split(chosen.chunk), labels.long().split(chosen.chunk)))
    for name in chosen.methods:
        explain = METHODS[name](net)
        first, seconds, maps = timed(explain, chunks)
        np.save(chosen.maps / f"{name}.npy", maps)
        print(json.dumps({"method": name, "first_s": first, "seconds": seconds, "images": len(maps)}), flush=True)


def timed(explain: Explain, chunks: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float, np.ndarray]:
    """Seconds of the first chunk, of all chunks after that, and maps [n, H, W]."""
    start = time.perf_counter()
    explain(*chunks[0])
    middle = time.perf_counter()
    maps = [np.asarray(explain(x.clone(), target).detach()) for x, target in chunks]
    return middle - start, time.perf_counter() - middle, np.concatenate(maps)


def attribution(method, **given) -> Explain:
    """A map summed over channels."""
    return lambda x, target: method.attribute(x, target=target, **given).sum(1)


def cam(kind) -> Callable[[torch.nn.Sequential], Explain]:
    """Of the last pool; this package scales each map to 0..1."""

    def build(net: torch.nn.Sequential) -> Explain:
        method = kind(model=net, target_layers=[net[5]])
        return lambda x, target: torch.from_numpy(
            method(input_tensor=x, targets=[ClassifierOutputTarget(int(label)) for label in target])
        )

    return build


def lrp(net: torch.nn.Sequential) -> Explain:
    for module in net:
        module.rule = EpsilonRule()
    return attribution(attr.LRP(net))


def squares() -> torch.Tensor:
    """Superpixels of a grid."""
    line = torch.arange(32) * ACROSS // 32
    return (line[:, None] * ACROSS + line[None, :])[None, None]


METHODS: dict[str, Callable[[torch.nn.Sequential], Explain]] = {
    "gradcam": cam(pytorch_grad_cam.GradCAM),
    "gradcampp": cam(pytorch_grad_cam.GradCAMPlusPlus),
    "layercam": cam(pytorch_grad_cam.LayerCAM),
    "saliency": lambda net: attribution(attr.Saliency(net)),
    "smoothgrad": lambda net: attribution(
        attr.NoiseTunnel(attr.Saliency(net)), nt_type="smoothgrad", nt_samples=16, stdevs=0.1
    ),
    "ig": lambda net: attribution(attr.IntegratedGradients(net), n_steps=50),
    "gradinput": lambda net: attribution(attr.InputXGradient(net)),
    "occlusion": lambda net: attribution(
        attr.Occlusion(net), sliding_window_shapes=(1, SIDE, SIDE), strides=(1, SIDE // 2, SIDE // 2)
    ),
    "kernelshap": lambda net: attribution(
        attr.KernelShap(net), feature_mask=squares(), n_samples=512, perturbations_per_eval=64
    ),
    "shapley": lambda net: attribution(attr.ShapleyValueSampling(net), feature_mask=squares(), n_samples=16),
    "lrp": lrp,
}

if __name__ == "__main__":
    main()
