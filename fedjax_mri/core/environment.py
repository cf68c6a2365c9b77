"""Settings of JAX with which this package would fail or compute something else."""

import jax

from fedjax_mri.core.errors import UserError

REFUSED = {  # what JAX's configuration must not say, and why
    "jax_enable_x64": "training computes in float32 and bfloat16 with 32-bit counts",
    "jax_disable_jit": "a federation is one compiled program",
}


def check_jax() -> None:
    """Raises UserError if JAX was told, by the environment or by a call, to compute in a way that cannot train."""
    for name, reason in REFUSED.items():
        if getattr(jax.config, name):
            raise UserError(f"{name.upper()}=1 (JAX's {name}): {reason}; leave it unset")
