"""A local stand-in for ElevenLabs, fal, Shotstack and Supabase Storage.

It speaks their wire formats and makes real media, so that the real SDKs run against it: only base URLs and
keys differ from production. It can be told to fail, and it counts what it bills.

    with Sandbox.running() as sandbox:
        settings = Settings.load(**{k.lower(): v for k, v in sandbox.environment().items()})
"""

from __future__ import annotations

from dreamcuts.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "serve"]
