"""The frames of a multi-frame DICOM object (enhanced CT and MR), each as an image of its own."""

from typing import Any

from fedjax_mri.core.errors import UserError

GROUPS = (  # sequences of functional groups whose elements an image of one frame has at its top
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence"),
)
OF_ONE_FRAME = ("ImagePositionPatient", "SliceLocation")  # which cannot hold for several frames


MAX_FRAMES = 2**16  # no scan has more frames


def count(dataset: Any) -> int:
    """Returns how many frames a dataset has. Raises UserError on a number that cannot be."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < frames <= MAX_FRAMES:
        raise UserError(f"{frames} frames: give 1 to {MAX_FRAMES}")
    return frames


def split(dataset: Any) -> list[Any]:
    """Returns a dataset without pixels for each frame, with its own geometry and rescaling at the top."""
    from pydicom import Dataset
    from pydicom.datadict import tag_for_keyword

    frames, shared = count(dataset), dataset.get("SharedFunctionalGroupsSequence")
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if frames == 1 and not shared and not own:
        return [dataset]
    left_out = {tag_for_keyword(name) for name in ("PixelData", *(OF_ONE_FRAME if frames > 1 else ()))}
    made = []
    for index in range(frames):
        frame = Dataset()
        frame.update({tag: element for tag, element in dataset.items() if tag not in left_out})
        implicit, little = dataset.original_encoding
        frame.set_original_encoding(implicit, little, dataset.original_character_set)
        frame.InstanceNumber = frame.ReferencedFrameNumber = index + 1
        for group in [*(shared or [])[:1], *own[index : index + 1]]:
            for name in GROUPS:
                for item in (group.get(name) or [])[:1]:
                    frame.update(item)
        if frame.get("FrameType"):
            frame.ImageType = frame.FrameType
        made.append(frame)
    return made
