"""Real review sentences, a small frozen T5, and the script that pretrained it."""

from __future__ import annotations

__version__ = "1.0.0"
