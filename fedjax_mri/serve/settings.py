"""What the flags of `fedjax-mri serve` may change: limits on what is uploaded, kept and computed."""

from dataclasses import dataclass, field

from fedjax_mri.core import fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.scan import Limits


@dataclass(frozen=True)
class Settings:
    """Limits and choices; each is a flag, such as `--queue 100` or `--limits.bytes 4000000000`."""

    queue: int = 64  # jobs that may wait or run; one more is answered with 503
    files: int = 600  # in one upload, those inside of a zip included
    upload_mb: int = 512  # MB of one upload
    unpacked_mb: int = 2048  # MB of all files of one upload, unpacked
    keep_hours: float = 24.0  # hours after which a job is deleted with all its files
    batch: int = 4  # slices that a model is shown at a time
    samples: int = 8  # draws of a run that has an uncertainty
    trainings: int = 1  # that may run at a time
    methods: str = "gradcam,ig,lrp"  # of explanations of classifiers
    limits: Limits = field(default_factory=Limits)  # of each file, as for `convert`

    def __post_init__(self) -> None:
        fields.check(self)
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 < value < 1e9:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0")
