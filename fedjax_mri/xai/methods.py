"""The methods by their short names, each with its usual settings."""

from typing import Any

from fedjax_mri.errors import UserError
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


def settings(name: str) -> Any:
    """A method's settings, which have `build`. Raises UserError, with the known names, on an unknown one."""
    if name not in METHODS:
        raise UserError(f"method={name}: give one of {', '.join(METHODS)}")
    return METHODS[name]
