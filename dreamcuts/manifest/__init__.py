"""The production manifest: its model, its checks, its jobs, and the film's time line and captions. Pure."""

from __future__ import annotations

from dreamcuts.manifest.decompose import JobSpec, decompose
from dreamcuts.manifest.model import Manifest
from dreamcuts.manifest.validate import check_manifest, plan_manifest

__all__ = ["JobSpec", "Manifest", "check_manifest", "decompose", "plan_manifest"]
