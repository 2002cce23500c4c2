"""What holds for the tests of the core and of every plugin."""

from __future__ import annotations

import hypothesis

# Compiling makes single examples slow, and machines are shared: no test asserts time.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
