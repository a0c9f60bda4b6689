"""DreamCuts: a Postgres-native job queue and worker for AI video production."""

from __future__ import annotations

__version__ = "0.1.0"
