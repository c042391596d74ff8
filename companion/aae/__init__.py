"""Adversarial autoencoders: the averaged ELBO taken apart, codes fitted to a prior by a game.

Their chapter and their checks in tests/equations carry the same name.
"""

from companion.aae.encoders import GaussianPosterior, UniversalApproximator
from companion.aae.mmd import (
    TwoSampleTest,
    gaussian_kernel,
    inverse_multiquadratic,
    mmd2,
    mmd_test,
)
from companion.aae.model import AAE, WAE, PriorAutoencoder
from companion.aae.semi_supervised import SemiSupervisedAAE, TwoHeads, fit_semi_supervised
from companion.aae.surgery import (
    Surgery,
    SurgeryEstimate,
    aggregated_posterior,
    surgery,
    surgery_estimate,
)
from companion.aae.training import fit_aae

__all__ = [  # noqa: RUF022 - the order of reading, and of the API reference
    "aggregated_posterior",
    "surgery",
    "Surgery",
    "surgery_estimate",
    "SurgeryEstimate",
    "PriorAutoencoder",
    "AAE",
    "fit_aae",
    "GaussianPosterior",
    "UniversalApproximator",
    "gaussian_kernel",
    "inverse_multiquadratic",
    "mmd2",
    "mmd_test",
    "TwoSampleTest",
    "WAE",
    "SemiSupervisedAAE",
    "TwoHeads",
    "fit_semi_supervised",
]
