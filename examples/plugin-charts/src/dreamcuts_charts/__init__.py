"""Charts for DreamCuts: a job type and a provider in a package of their own, found by entry points."""

from __future__ import annotations
