"""What the flags of `fedjax-mri serve` may change: limits on what is uploaded, kept and computed."""

from dataclasses import dataclass, field
from typing import Annotated

from fedjax_mri.core import fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import IntRange
from fedjax_mri.data.files.scan import Limits

Count = Annotated[int, IntRange(1, 10**6)]


@dataclass(frozen=True)
class Settings:
    """Limits and choices; each is a flag, such as `--queue 100` or `--limits.bytes 4000000000`."""

    queue: Count = 64  # jobs that may wait or run; one more is answered with 503
    files: Count = 600  # in one upload, those inside of a zip included
    upload_mb: Count = 512  # MB of one upload
    unpacked_mb: Count = 2048  # MB of all files of one upload, unpacked
    keep_hours: float = 24.0  # hours after which a job is deleted with all its files
    batch: Count = 4  # slices that a model is shown at a time
    samples: Count = 8  # draws of a run that has an uncertainty
    trainings: Count = 1  # that may run at a time
    methods: str = "gradcam,ig,lrp"  # of explanations of classifiers
    limits: Limits = field(default_factory=Limits)  # of each file, as for `convert`

    def __post_init__(self) -> None:
        fields.check(self, "--")
        if not 0 < self.keep_hours <= 10**6:
            raise UserError(f"--keep-hours {self.keep_hours:g}: must be above 0, and 1000000 at most")
