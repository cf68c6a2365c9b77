"""Eight host devices, strict promotion, and a cache for compiled programs and measured plans in every test.

Programs are hardly optimised, but for those that a plan compiles: they run once on small shapes, and compiling them is
what takes the time.
"""

import os
import pathlib

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).parent.parent / ".jax_cache")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["XDG_CACHE_HOME"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
