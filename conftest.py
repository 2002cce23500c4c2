"""Settings for the tests of the core and of every plugin."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

# The processes of a test session share compiled programs, outside of the user's home.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# Compiling makes single examples slow, and machines are shared: no test asserts time.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True, scope="module")
def _quick_compile(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has JAX leave out most optimizations, in this process and those that the tests start.

    Compiling takes most of the time of tests that only run small models.
    """
    is_quick = request.node.get_closest_marker("quick_compile") is not None
    name = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), str(int(is_quick)))
        if is_quick or "jax" in sys.modules:
            import jax

            if jax.config.values[name] != is_quick:
                jax.config.update(name, is_quick)
                # A program that was compiled the other way may differ in its last bits.
                jax.clear_caches()
        yield
