"""Registration by SimpleITK and skull stripping by brainextractor, for `scripts/prepare_accuracy.py`."""

import sys
import time

import numpy as np


def register(folder: str, count: int) -> None:
    import SimpleITK as sitk

    for number in range(count):
        one = np.load(f"{folder}/{number}.npz")
        images = []
        for name in ("mr", "ct"):
            image = sitk.GetImageFromArray(one[name].astype(np.float32))
            image.SetSpacing([float(step) for step in one["spacing"][::-1]])
            images.append(image)
        start = time.perf_counter()
        flat = one["mr"].ndim == 2
        form = sitk.Euler2DTransform() if flat else sitk.Euler3DTransform()
        first = sitk.CenteredTransformInitializer(*images, form, sitk.CenteredTransformInitializerFilter.MOMENTS)
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(50)
        if not flat:  # a slice has few pixels: all of them count
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(0.2, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([4, 2, 0])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetInitialTransform(first, inPlace=False)
        found = method.Execute(*images)
        seconds = time.perf_counter() - start
        middle = one["centre"][::-1].astype(float)
        lies = np.array(found.TransformPoint(middle.tolist()))
        size = len(middle)
        columns = [np.array(found.TransformPoint((middle + step).tolist())) - lies for step in np.eye(size)]
        matrix = np.stack(columns, 1)[::-1, ::-1]  # to the arrays' order of axes
        np.savez(f"{folder}/{number}.out.npz", matrix=matrix, lies=lies[::-1], seconds=seconds)


def strip(folder: str) -> None:
    import nibabel
    from brainextractor import BrainExtractor

    image, truth = nibabel.load(f"{folder}/ch2.nii.gz"), nibabel.load(f"{folder}/ch2bet.nii.gz").get_fdata() > 0
    start, shown = time.perf_counter(), sys.stdout
    sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115
    extractor = BrainExtractor(img=image)
    extractor.run()
    mask = np.asarray(extractor.compute_mask()) > 0
    sys.stdout = shown
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    print(f"| Colin27, brainextractor | {dice:.3f} | {time.perf_counter() - start:.1f} s |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "register":
        register(sys.argv[2], int(sys.argv[3]))
    else:
        strip(sys.argv[2])
