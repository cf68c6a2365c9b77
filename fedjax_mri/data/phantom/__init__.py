"""Procedural CT and MR head phantom: synthetic hospitals, patients and scans from random keys, nothing stored."""

from .lesions import CLASSES, LesionModel
from .physics import (
    NAMES,
    TISSUES,
    Properties,
    Tissue,
    enhanced_t1,
    inversion_recovery,
    null_time,
    properties,
    spin_echo,
    spoiled_gradient_echo,
)
from .site import Protocol, Site, SiteModel
from .source import Phantom

__all__ = [
    "CLASSES",
    "NAMES",
    "TISSUES",
    "LesionModel",
    "Phantom",
    "Properties",
    "Protocol",
    "Site",
    "SiteModel",
    "Tissue",
    "enhanced_t1",
    "inversion_recovery",
    "null_time",
    "properties",
    "spin_echo",
    "spoiled_gradient_echo",
]
