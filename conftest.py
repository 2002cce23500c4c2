"""Settings for the tests of the core and of every plugin."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import hypothesis

# The processes of a test session share compiled programs, outside of the user's home.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# Compiling makes single examples slow, and machines are shared: no test asserts time.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
