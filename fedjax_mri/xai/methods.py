"""The methods by their short names, each with its usual settings."""

from typing import Any

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.cam import GradCAM, GradCAMPlusPlus, LayerCAM
from fedjax_mri.xai.gradients import GradientInput, IntegratedGradients, Saliency, SmoothGrad
from fedjax_mri.xai.lrp import LRP
from fedjax_mri.xai.occlusion import Occlusion
from fedjax_mri.xai.shapley import KernelSHAP, SampledShapley

METHODS: dict[str, Any] = {
    "gradcam": GradCAM(),
    "gradcampp": GradCAMPlusPlus(),
    "layercam": LayerCAM(),
    "saliency": Saliency(),
    "smoothgrad": SmoothGrad(),
    "ig": IntegratedGradients(),
    "gradinput": GradientInput(),
    "occlusion": Occlusion(),
    "kernelshap": KernelSHAP(),
    "shapley": SampledShapley(),
    "lrp": LRP(),
}

TITLES = {  # as papers write them
    "gradcam": "Grad-CAM",
    "gradcampp": "Grad-CAM++",
    "layercam": "Layer-CAM",
    "saliency": "Saliency",
    "smoothgrad": "SmoothGrad",
    "ig": "Integrated gradients",
    "gradinput": "Gradient x input",
    "occlusion": "Occlusion",
    "kernelshap": "KernelSHAP",
    "shapley": "Sampled Shapley",
    "lrp": "LRP",
}


def settings(name: str, field: str = "method") -> Any:
    """Returns a method's settings, which have `build`.

    Raises UserError, with `field` and all names, on an unknown name.
    """
    if name not in METHODS:
        raise UserError(f"{field}={name}: give one of {', '.join(METHODS)}")
    return METHODS[name]


def title(name: str) -> str:
    """Returns the name of a method as papers write it; `name` itself where the method is not one of these."""
    return TITLES.get(name, name)
