"""Small manifests and jobs for the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamcuts.manifest.decompose import IMAGE, LIPSYNC, MUSIC, SOUND, TTS, VIDEO

EXAMPLES = Path(__file__).parents[2] / "examples"
VOICE = "21m00Tcm4TlvDq8ikWAM"


def demo() -> dict[str, Any]:
    """The demo's manifest."""
    return dict(json.loads((EXAMPLES / "demo.json").read_text(encoding="utf-8")))


def film(*scenes: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A manifest of these scenes; each gets an id, 5 s and an image of its own, unless it has them."""
    made, assets = [], {}
    for number, scene in enumerate(scenes, 1):
        name = f"s{number}"
        entry = {"id": name, "durationSeconds": 5.0, "narration": f"This is scene number {number}."} | scene
        if "visuals" not in entry:
            entry["visuals"] = [{"type": "generated", "assetId": f"img_{name}"}]
            assets[f"img_{name}"] = {
                "source": "generated",
                "mimeType": "image/png",
                "prompt": f"scene {number}",
            }
        made.append(entry)
    total = sum(scene["durationSeconds"] for scene in made)
    manifest: dict[str, Any] = {
        "metadata": {"durationSeconds": total, "aspectRatio": "16:9"},
        "scenes": made,
        "assets": assets,
        "audio": {"ttsDefaults": {"voiceId": VOICE}},
    }
    for key, value in parts.items():
        manifest[key] = manifest.get(key, {}) | value if isinstance(value, dict) else value
    return manifest


@dataclass(frozen=True)
class Made:
    """A job of the manifest, by default completed with a file."""

    job_id: str
    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = field(default_factory=dict)
    status: str = "completed"

    @property
    def output_url(self) -> str | None:
        return f"https://files.example/{self.job_id}" if self.status == "completed" else None


def speech(scene: str, seconds: float, text: str = "Hello there.", **more: Any) -> Made:
    payload = {"sceneId": scene, "text": text}
    return Made(f"job_tts_{scene}", TTS, payload, {"durationSeconds": seconds} | more)


def image(asset: str, scene: str | None = None, **more: Any) -> Made:
    payload = {"assetId": asset, "sceneId": scene}
    return Made(f"job_gen_{asset}", IMAGE, payload, {"contentType": "image/png"}, **more)


def video(asset: str, seconds: float, scene: str | None = None) -> Made:
    result = {"contentType": "video/mp4", "durationSeconds": seconds}
    return Made(f"job_gen_{asset}", VIDEO, {"videoId": asset, "sceneId": scene}, result)


def lip_sync(scene: str, seconds: float, face: str | None = None) -> Made:
    payload = {"sceneId": scene, "audioJobId": f"job_tts_{scene}", "videoAssetId": face}
    result = {"contentType": "video/mp4", "durationSeconds": seconds}
    return Made(f"job_lipsync_{scene}", LIPSYNC, payload, result)


def music(cue: str, seconds: float | None = None, **payload: Any) -> Made:
    result = {"durationSeconds": seconds} if seconds else {}
    return Made(f"job_music_{cue}", MUSIC, {"cueId": cue} | payload, result)


def sound(effect: str, seconds: float = 1.0, **payload: Any) -> Made:
    return Made(f"sound_effect_{effect}", SOUND, {"effectId": effect} | payload, {"durationSeconds": seconds})
