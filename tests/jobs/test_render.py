from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from dreamcuts.errors import ErrorClass, InvalidRequest, JobError
from dreamcuts.jobs.base import Result, SiblingJob
from dreamcuts.jobs.render import RenderJob, RenderPayload
from dreamcuts.jobs.templates import resolve_templates
from dreamcuts.manifest import JobSpec, decompose
from dreamcuts.manifest.model import Manifest
from dreamcuts.media import probe
from dreamcuts.sandbox.ffmpeg import probe as decode
from dreamcuts.sandbox.ffmpeg import run_ffmpeg

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"
RENDER = "job_render_shotstack"


def short_film(**render: Any) -> dict[str, Any]:
    """A film of 6 s in two scenes, small so that it renders quickly."""
    return {
        "metadata": {"durationSeconds": 6, "aspectRatio": "16:9", "language": "en"},
        "scenes": [
            {
                "id": "s1",
                "durationSeconds": 3,
                "narration": "[warm] A light goes on.",
                "visuals": [{"assetId": "dawn"}],
                "musicCue": "theme",
            },
            {
                "id": "s2",
                "durationSeconds": 3,
                "narration": "Good morning!",
                "visuals": [{"assetId": "face", "lipSync": True}],
                "musicCue": "theme",
            },
        ],
        "assets": {
            "dawn": {"source": "generated", "mimeType": "image/jpeg", "prompt": "a hill at dawn"},
            "face": {"source": "generated", "mimeType": "image/jpeg", "prompt": "portrait of a baker"},
        },
        "audio": {
            "ttsDefaults": {"voiceId": "21m00Tcm4TlvDq8ikWAM"},
            "music": {"cueMap": {"theme": {"mood": "calm", "tempo": "80 BPM"}}},
            "sfx": [
                {"id": "bell", "cue": "a shop bell", "sceneId": "s2", "startAt": 1, "durationSeconds": 1}
            ],
        },
        "render": {"resolution": {"width": 480, "height": 270}, "quality": "medium"} | render,
    }


def prepare(studio: Any, manifest: dict[str, Any]) -> list[JobSpec]:
    studio.manifest = manifest
    specs = decompose(manifest)
    studio.siblings = [SiblingJob(s.job_id, s.type, "pending", s.payload, None, None) for s in specs]
    return specs


async def run(studio: Any, job_id: str, **options: Any) -> Result:
    """Run a job of the studio's manifest as a worker would, and keep its result for the others."""
    number, entry = next((n, each) for n, each in enumerate(studio.siblings) if each.job_id == job_id)
    payload = resolve_templates(entry.payload, manifest=studio.manifest, siblings=studio.siblings)
    result: Result = await studio.run(entry.type, payload, job_id=job_id, **options)
    assert result.asset is not None
    studio.siblings[number] = replace(
        entry,
        status="completed",
        result={**result.asset.as_result(), **result.data},
        output_url=result.asset.url,
    )
    return result


async def run_all_but_the_render(studio: Any, specs: list[JobSpec]) -> None:
    for spec in specs:
        if spec.job_id != RENDER:
            await run(studio, spec.job_id)


def fail(studio: Any, job_id: str) -> None:
    studio.siblings = [
        replace(each, status="failed", output_url=None, result=None) if each.job_id == job_id else each
        for each in studio.siblings
    ]


def bills(studio: Any) -> int:
    return len(studio.sandbox.bills("shotstack"))


async def loudness(path: Path, start: float, seconds: float) -> float:
    """Mean volume of a part of a film, in dB below full scale."""
    report = await run_ffmpeg(
        *("-ss", str(start), "-t", str(seconds), "-i", str(path), "-vn"),
        *("-af", "astats=metadata=1:reset=0,ametadata=print:key=lavfi.astats.Overall.RMS_level:file=-"),
        *("-f", "null", "-"),
    )
    return float(re.findall(rb"RMS_level=(-?[\d.]+|-inf)", report)[-1])


async def test_a_manifest_becomes_a_film(studio: Any) -> None:
    specs = prepare(studio, short_film())
    await run_all_but_the_render(studio, specs)

    result = await run(studio, RENDER)

    film = studio.file(result)
    info = await decode(str(film))
    assert (info.width, info.height, info.video_codec, info.audio_codec) == (480, 270, "h264", "aac")
    assert info.duration == pytest.approx(6, abs=0.1)
    assert probe(film).duration == pytest.approx(6, abs=0.1)
    data = result.data
    assert data["url"] == result.asset.url if result.asset else None
    assert data["durationSeconds"] == pytest.approx(6, abs=0.1)
    assert (data["width"], data["height"]) == (480, 270)
    assert data["provider"] == "shotstack"
    assert data["endpoint"] == "stage"
    assert data["requestId"]
    assert data["notes"] == []
    async with httpx.AsyncClient() as client:
        srt = (await client.get(data["captionsUrl"])).text
    assert "A light goes on." in srt
    assert "Good morning!" in srt
    assert "warm" not in srt
    assert "00:00:03,000 -->" in srt  # the lip-synced scene speaks at once
    # Speech is heard over the music, in its scene.
    assert await loudness(film, 0.3, 0.8) > await loudness(film, 5.0, 0.8) + 3


async def test_the_edit_is_sent_once_and_its_cost_is_known(studio: Any) -> None:
    specs = prepare(studio, short_film(environment="production"))
    await run_all_but_the_render(studio, specs)
    studio.calls.rows.clear()

    result = await run(studio, RENDER)

    (call,) = studio.calls.rows
    assert (call.provider, call.endpoint, call.status) == ("shotstack", "v1", "succeeded")
    assert call.cost_usd == pytest.approx(0.03)
    assert result.data["costUsd"] == pytest.approx(0.03)
    assert bills(studio) == 1
    assert call.request["output"]["size"] == {"width": 480, "height": 270}


async def test_an_open_render_is_picked_up_and_not_paid_again(studio: Any) -> None:
    prepare(studio, picture_only(studio))
    # Asking for the render fails until the attempt gives up: the render itself stays open.
    studio.sandbox.fail(
        "status", provider="shotstack", match="/render/", method="GET", status=500, times=None
    )
    with pytest.raises(JobError) as raised:
        await run(studio, RENDER)
    assert raised.value.error_class is ErrorClass.TRANSIENT
    assert bills(studio) == 1
    assert studio.calls.rows[0].status == "open"
    ticket = studio.calls.rows[0].ticket

    studio.sandbox.faults.clear()
    result = await run(studio, RENDER, attempt=2)

    assert bills(studio) == 1
    assert len(studio.calls.rows) == 1
    assert result.data["requestId"] == ticket.request_id


def picture_only(studio: Any, **render: Any) -> dict[str, Any]:
    """A film of one still picture, which needs no other job: quick."""
    picture = studio.sandbox.state.files / "own.png"
    from PIL import Image

    Image.new("RGB", (320, 180), (200, 60, 40)).save(picture)
    url = f"{studio.sandbox.url}/files/own.png"
    return {
        "metadata": {"durationSeconds": 2},
        "scenes": [{"id": "s1", "durationSeconds": 2, "visuals": [{"type": "user", "assetId": "own"}]}],
        "assets": {"own": {"source": "user", "originUrl": url, "mimeType": "image/png"}},
        "render": {"resolution": {"width": 320, "height": 180}} | render,
    }


async def test_a_silent_film_has_no_captions(studio: Any) -> None:
    prepare(studio, picture_only(studio))
    result = await run(studio, RENDER)
    assert "captionsUrl" not in result.data
    assert result.data["durationSeconds"] == pytest.approx(2, abs=0.1)


async def test_a_film_without_what_failed_says_so(studio: Any) -> None:
    specs = prepare(studio, short_film())
    for spec in specs:
        if spec.job_id in ("job_tts_s1", "job_gen_dawn"):
            await run(studio, spec.job_id)
    for spec in specs:
        if spec.job_id not in ("job_tts_s1", "job_gen_dawn", RENDER):
            fail(studio, spec.job_id)

    result = await run(studio, RENDER)

    notes = "\n".join(result.data["notes"])
    for missing in ("job_tts_s2 is failed", "job_lipsync_s2 is failed", "face", "theme", "bell"):
        assert missing in notes
    assert result.data["durationSeconds"] == pytest.approx(6, abs=0.1)


async def test_a_film_with_nothing_to_show_is_refused_before_it_costs_anything(studio: Any) -> None:
    prepare(studio, short_film())
    fail(studio, "job_gen_dawn")
    with pytest.raises(InvalidRequest, match="nothing to render"):
        await run(studio, RENDER)
    assert bills(studio) == 0
    assert studio.calls.rows == []


async def test_a_render_without_a_manifest_or_with_a_broken_one_is_refused(studio: Any) -> None:
    with pytest.raises(InvalidRequest, match="set its manifest_id"):
        await studio.run("render_shotstack", {"manifestId": "MANIFEST_PLACEHOLDER"})
    studio.manifest = {"metadata": {"durationSeconds": -1}, "scenes": []}
    with pytest.raises(InvalidRequest, match=r"metadata\.durationSeconds"):
        await studio.run("render_shotstack", {})
    assert bills(studio) == 0


async def test_a_cost_limit_stops_the_render_before_it_is_paid(studio: Any) -> None:
    prepare(studio, picture_only(studio, environment="production", costLimit=0.001))
    with pytest.raises(JobError) as raised:
        await run(studio, RENDER)
    assert raised.value.error_class is ErrorClass.SPEND_LIMIT
    assert bills(studio) == 0


async def test_a_picture_that_is_gone_is_named(studio: Any) -> None:
    manifest = picture_only(studio)
    manifest["assets"]["own"]["originUrl"] += ".gone.png"
    prepare(studio, manifest)
    with pytest.raises(JobError, match=r"gone\.png"):
        await run(studio, RENDER)


def payload(**values: Any) -> RenderPayload:
    return RenderPayload.model_validate(values)


def test_the_founding_payload_is_understood() -> None:
    founding = json.loads((EXAMPLES / "founding_payloads.json").read_text(encoding="utf-8"))
    model = RenderPayload.model_validate(founding["render_shotstack"]["payload"])
    options = model.options(Manifest.model_validate(short_film()))
    assert (options.width, options.height, options.quality) == (1280, 720, "high")
    assert options.caption_look.asset("u") == {
        "type": "caption",
        "src": "u",
        "font": {"family": "Montserrat ExtraBold", "size": 28, "color": "#ffffff"},
        "background": {"color": "#000000", "opacity": 0.8, "padding": 10, "borderRadius": 6},
        "margin": {"top": 0.8},
    }


@pytest.mark.parametrize(
    ("aspect", "size"),
    [("16:9", (1280, 720)), ("9:16", (720, 1280)), ("1:1", (1080, 1080)), ("4:3", (960, 720))],
)
def test_the_size_follows_from_the_aspect_ratio(aspect: str, size: tuple[int, int]) -> None:
    film = short_film()
    film["metadata"]["aspectRatio"] = aspect
    options = payload().options(Manifest.model_validate(film))
    assert (options.width, options.height) == size


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"environment": "moon"}, "environment"),
        ({"outputFormat": "avi"}, "outputFormat"),
        ({"quality": "ultra"}, "quality"),
        ({"resolution": {"width": 1281, "height": 720}}, "1281 is odd"),
        ({"resolution": {"width": 4000, "height": 720}}, "resolution.width"),
        ({"captionStyle": {"fontColor": "octarine"}}, "'octarine' is no colour"),
        ({"captionStyle": {"position": "left"}}, "captionStyle.position"),
        ({"captionStyle": {"backgroundOpacity": 7}}, "captionStyle.backgroundOpacity"),
    ],
)
def test_a_payload_that_cannot_be_rendered_names_the_field(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        payload(**values)
    text = "\n".join(
        f"{'.'.join(str(part) for part in issue['loc'])} {issue['msg']}" for issue in raised.value.errors()
    )
    assert words in text


@pytest.mark.parametrize(
    ("given", "expected"), [("#FFF", "#ffffff"), ("White", "#ffffff"), ("#1b2A41", "#1b2a41")]
)
def test_colours_are_understood_as_people_write_them(given: str, expected: str) -> None:
    assert payload(captionStyle={"fontColor": given}).caption_style.font_color == expected


def test_a_transparent_background_is_none_and_sizes_may_have_a_unit() -> None:
    style = payload(captionStyle={"backgroundColor": "transparent", "fontSize": "32px"}).caption_style
    assert "background" not in style.look().asset("u")
    assert style.look().size == 32


def test_the_type_is_described() -> None:
    assert RenderJob.short_name == "render"
    assert RenderJob.default_slots == 1
    assert RenderJob.retry_delay.total_seconds() == 30
