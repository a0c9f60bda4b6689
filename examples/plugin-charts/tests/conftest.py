"""The fixtures of DreamCuts' testing kit."""

from __future__ import annotations

pytest_plugins = ["dreamcuts.testing.fixtures"]
