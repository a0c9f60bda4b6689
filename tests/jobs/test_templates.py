from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamcuts.errors import ErrorClass, InvalidRequest
from dreamcuts.jobs.base import SiblingJob
from dreamcuts.jobs.templates import needs_templates, resolve_templates

SPEECH_URL = "https://files.example/speech.mp3"
FACE_URL = "https://files.example/face.png"
OWN_URL = "https://uploads.example/own.jpg"

MANIFEST = {
    "assets": {
        "own": {"id": "own", "source": "user", "originUrl": OWN_URL},
        "bare": {"id": "bare", "source": "user"},
        "face": {"id": "face", "source": "generated"},
    }
}


def sibling(job_id: str, status: str = "completed", url: str | None = None, **payload: Any) -> SiblingJob:
    return SiblingJob(job_id, "any", status, payload, None, url)


SIBLINGS = [
    sibling("job_tts_s1", url=SPEECH_URL, sceneId="s1"),
    sibling("job_tts_s2", status="failed", sceneId="s2"),
    sibling("job_gen_face", url=FACE_URL, assetId="face"),
    sibling("job_gen_late", status="pending", assetId="late"),
    sibling("silent"),
]


def resolve(payload: dict[str, Any], **more: Any) -> dict[str, Any]:
    return resolve_templates(payload, **({"manifest": MANIFEST, "siblings": SIBLINGS} | more))


def test_templates_are_resolved_wherever_they_stand() -> None:
    payload = {
        "audioUrl": "{{job_result:job_tts_s1}}",
        "deep": {"list": [{"x": "{{ asset_url : face }}"}, 5, None, True]},
        "text": "see {{asset_url:own}} and {{job_result:job_tts_s1}}!",
        "plain": "as it is",
    }
    before = copy.deepcopy(payload)
    assert resolve(payload) == {
        "audioUrl": SPEECH_URL,
        "deep": {"list": [{"x": FACE_URL}, 5, None, True]},
        "text": f"see {OWN_URL} and {SPEECH_URL}!",
        "plain": "as it is",
    }
    assert payload == before


@pytest.mark.parametrize("key", ["assetId", "resultAssetId", "videoId", "cueId", "effectId"])
def test_an_asset_is_found_by_every_key_that_names_a_result(key: str) -> None:
    jobs = [sibling("maker", url=FACE_URL, **{key: "thing"})]
    assert resolve({"u": "{{asset_url:thing}}"}, siblings=jobs, manifest={}) == {"u": FACE_URL}


def test_the_last_stage_of_an_asset_wins() -> None:
    jobs = [
        sibling("draw", url="https://e.x/raw", assetId="thing"),
        sibling("enhance", url="https://e.x/better", assetId="input", resultAssetId="thing"),
    ]
    assert resolve({"u": "{{asset_url:thing}}"}, siblings=jobs)["u"] == "https://e.x/better"


def test_a_users_file_wins_for_a_users_asset_and_a_job_for_a_generated_one() -> None:
    manifest = {"assets": {"a": {"source": "user", "originUrl": OWN_URL}, "b": {"source": "generated"}}}
    manifest["assets"]["b"]["originUrl"] = OWN_URL
    jobs = [sibling("x", url=FACE_URL, assetId="a"), sibling("y", url=FACE_URL, assetId="b")]
    payload = {"a": "{{asset_url:a}}", "b": "{{asset_url:b}}"}
    assert resolve(payload, manifest=manifest, siblings=jobs) == {"a": OWN_URL, "b": FACE_URL}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (
            {"x": "{{job_result:job_tts_s9}}"},
            "x: {{job_result:job_tts_s9}} cannot be resolved: job_tts_s9 does not exist in this manifest; "
            "jobs are: job_tts_s1, job_tts_s2, job_gen_face, job_gen_late, silent.",
        ),
        ({"x": "{{job_result:job_tts_s2}}"}, "job_tts_s2 is not completed (failed)"),
        ({"x": "{{job_result:silent}}"}, "silent is completed, but made no file"),
        ({"x": "{{asset_url:late}}"}, "it is made by job_gen_late (pending)"),
        ({"x": "{{asset_url:bare}}"}, "asset bare has no originUrl, and no job makes it"),
        (
            {"x": "{{asset_url:ghost}}"},
            "asset ghost does not exist in this manifest; assets are: own, bare, face",
        ),
        ({"a": [{"b": "{{job_result:nope}}"}]}, "a[0].b: {{job_result:nope}}"),
        ({"audioJobId": "nope"}, "audioJobId: nope does not exist"),
        ({"videoAssetId": "late"}, "videoAssetId: asset late is not there yet"),
    ],
)
def test_what_cannot_be_resolved_names_itself_and_what_there_is(payload: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        resolve(payload)
    assert words in str(raised.value)
    assert raised.value.error_class is ErrorClass.INVALID_REQUEST


def test_a_job_without_a_manifest_says_so() -> None:
    with pytest.raises(InvalidRequest, match="belongs to no manifest"):
        resolve({"x": "{{job_result:a}}"}, manifest={}, siblings=[])


@pytest.mark.parametrize("given_url", [None, "", "{{job_result:nope}}"])
def test_a_stand_in_is_used_where_no_url_is_given(given_url: str | None) -> None:
    payload: dict[str, Any] = {"audioJobId": "job_tts_s1", "videoAssetId": "face", "audioUrl": given_url}
    assert resolve(payload) == payload | {"audioUrl": SPEECH_URL, "videoUrl": FACE_URL}


@pytest.mark.parametrize("given_url", ["https://e.x/other.mp3", "{{asset_url:own}}"])
def test_a_given_url_wins_over_its_stand_in_even_one_that_is_unknown(given_url: str) -> None:
    resolved = resolve({"audioJobId": "nope", "audioUrl": given_url})
    assert resolved["audioUrl"] in ("https://e.x/other.mp3", OWN_URL)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"a": "{{job_result:x}}"}, True),
        ({"a": [{"b": "text {{asset_url:x}}"}]}, True),
        ({"audioJobId": "x"}, True),
        ({"videoAssetId": "x", "videoUrl": ""}, True),
        ({"audioJobId": "x", "audioUrl": "https://e.x/a"}, False),
        ({"text": "an {{other}} thing", "n": 1, "l": [None]}, False),
        ({}, False),
    ],
)
def test_needs_templates(payload: dict[str, Any], expected: bool) -> None:
    assert needs_templates(payload) is expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_payload_without_templates_is_left_alone(payload: dict[str, Any]) -> None:
    if not needs_templates(payload):
        assert resolve(payload) == payload
