"""The frames of a multi-frame DICOM object (enhanced CT and MR), each as an image of its own."""

import copy
from typing import Any

GROUPS = (  # sequences of functional groups whose elements an image of one frame has at its top
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence"),
)
OF_ONE_FRAME = ("ImagePositionPatient", "SliceLocation")  # which cannot hold for several frames


def count(dataset: Any) -> int:
    """How many frames a dataset has."""
    return int(dataset.get("NumberOfFrames") or 1)


def split(dataset: Any) -> list[Any]:
    """A dataset without pixels for each frame, with its own geometry and rescaling at the top."""
    frames, shared = count(dataset), dataset.get("SharedFunctionalGroupsSequence")
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if frames == 1 and not shared and not own:
        return [dataset]
    common = copy.copy(dataset)
    for name in ("PixelData", *(OF_ONE_FRAME if frames > 1 else ())):
        if name in common:
            del common[name]
    made = []
    for index in range(frames):
        frame = copy.copy(common)
        frame.InstanceNumber = frame.ReferencedFrameNumber = index + 1
        for group in [*(shared or [])[:1], *own[index : index + 1]]:
            for name in GROUPS:
                for item in (group.get(name) or [])[:1]:
                    frame.update(item)
        if frame.get("FrameType"):
            frame.ImageType = frame.FrameType
        made.append(frame)
    return made
