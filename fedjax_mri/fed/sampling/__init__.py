"""Which clients take part in a round. `cohort.py` is the contract; `--fed.sampling` names a settings class."""

from fedjax_mri.fed.sampling.asynchronous import Asynchronous
from fedjax_mri.fed.sampling.availability import Diurnal, Markov, Trace
from fedjax_mri.fed.sampling.cohort import Cohort, Population, Sampler, cohort_of
from fedjax_mri.fed.sampling.draws import Cyclic, Everyone, Poisson, Uniform, Weighted

__all__ = [
    "Asynchronous",
    "Cohort",
    "Cyclic",
    "Diurnal",
    "Everyone",
    "Markov",
    "Poisson",
    "Population",
    "Sampler",
    "Trace",
    "Uniform",
    "Weighted",
    "cohort_of",
]
