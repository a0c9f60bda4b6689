from __future__ import annotations

import copy
from typing import Any

import pytest
from builders import VOICE, demo, film
from pydantic import BaseModel, Field

from dreamcuts.errors import ManifestInvalid
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.manifest import check_manifest, plan_manifest


def models() -> dict[str, type[BaseModel]]:
    return {name: job_type.payload_model for name, job_type in load_job_types().items()}


def job(job_id: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    return {"id": job_id, "type": "tts_elevenlabs", "payload": {}, "dependsOn": list(depends_on)} | more


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


def test_the_demo_has_no_problem_also_not_in_its_payloads() -> None:
    assert check_manifest(demo(), payload_models=models()) == []


@pytest.mark.parametrize("aspect", ["16:9", "9:16", "1:1", "4:3"])
def test_derived_payloads_are_valid_in_every_aspect(aspect: str) -> None:
    manifest = demo()
    manifest["metadata"]["aspectRatio"] = aspect
    del manifest["render"]
    assert check_manifest(manifest, payload_models=models()) == []


def test_all_problems_are_listed_at_once_and_checking_changes_nothing() -> None:
    manifest = film({"durationSeconds": 4, "startAtSec": 0}, {"musicCue": "nope", "startAtSec": 9})
    manifest["metadata"]["durationSeconds"] = 30
    manifest["scenes"][0]["visuals"][0]["assetId"] = "ghost"
    before = copy.deepcopy(manifest)

    problems = check_manifest(manifest)

    assert manifest == before
    starts = (
        "metadata.durationSeconds is 30, but the scenes add up to 9 s",
        "scenes[1].startAtSec is 9, but the scenes before s2 end at 4 s",
        "scenes[1].musicCue 'nope' is not in audio.music.cueMap",
        "scenes[0].visuals[0].assetId 'ghost' is not in assets",
    )
    assert len(problems) == len(starts)
    for start in starts:
        assert any(problem.startswith(start) for problem in problems), (start, problems)
    with pytest.raises(ManifestInvalid) as raised:
        plan_manifest(manifest)
    assert raised.value.problems == problems


def test_a_malformed_manifest_names_field_and_value() -> None:
    manifest = film({"durationSeconds": -1}, audio={"sfx": [{"id": "x", "cue": "y", "durationSeconds": 99}]})
    manifest["metadata"]["aspectRatio"] = "21:9"
    text = "\n".join(check_manifest(manifest))
    assert "scenes[0].durationSeconds is -1" in text
    assert "metadata.aspectRatio is '21:9'" in text
    assert "audio.sfx[0].durationSeconds is 99" in text


@pytest.mark.parametrize("manifest", [{}, {"metadata": None, "scenes": None}, {"metadata": {}, "scenes": []}])
def test_an_empty_manifest_says_what_is_missing(manifest: dict[str, Any]) -> None:
    text = "\n".join(check_manifest(manifest))
    assert "metadata" in text
    assert "scenes" in text


def test_durations_may_differ_by_rounding_only() -> None:
    manifest = film({"durationSeconds": 3.333}, {"durationSeconds": 3.333}, {"durationSeconds": 3.333})
    manifest["metadata"]["durationSeconds"] = 10.0
    assert check_manifest(manifest) == []
    manifest["metadata"]["durationSeconds"] = 10.02
    assert "add up to" in only(check_manifest(manifest))


def test_duplicates_are_named() -> None:
    manifest = film({}, {"id": "s1"})
    manifest["assets"]["a"] = {"id": "x", "originUrl": "https://e.x/a"}
    manifest["assets"]["b"] = {"id": "x", "originUrl": "https://e.x/b"}
    text = "\n".join(check_manifest(manifest, [job("j"), job("j")]))
    assert "scenes[].id 's1' is used 2 times" in text
    assert "assets.*.id 'x' is used 2 times" in text
    assert "assets.a.id is 'x'; write 'a'" in text
    assert "jobs[].id 'j' is used 2 times" in text


def test_a_cycle_is_named_once_with_its_members_in_order() -> None:
    jobs = [job("a", "b"), job("b", "c"), job("c", "a"), job("d", "a")]
    problems = [p for p in check_manifest(film({}), jobs) if "circle" in p]
    assert "a -> b -> c -> a" in only(problems)


def test_a_job_that_waits_for_itself_is_a_cycle() -> None:
    assert any("a -> a" in problem for problem in check_manifest(film({}), [job("a", "a")]))


def test_a_long_chain_of_jobs_is_no_problem() -> None:
    jobs = [job("j0")] + [job(f"j{n}", f"j{n - 1}") for n in range(1, 3000)]
    assert not [p for p in check_manifest(film({}), jobs) if "circle" in p]


def test_an_unknown_dependency_is_named_with_what_there_is() -> None:
    problems = [p for p in check_manifest(film({}), [job("a", "ghost"), job("b")]) if "ghost" in p]
    assert only(problems).startswith(
        "jobs[0] a.dependsOn names 'ghost', which is not a job of this manifest (a, b)"
    )


def test_a_type_that_nobody_serves_is_no_problem() -> None:
    manifest = film({"visuals": []}, jobs=[job("chart", type="generate_chart_gptimage", payload={"any": 1})])
    assert check_manifest(manifest, payload_models=models()) == []


def test_jobs_in_the_tables_spelling_are_understood() -> None:
    rows = [{"job_id": "a", "type": "x", "payload": {}, "depends_on": ["b"]}]
    assert any("a.dependsOn names 'b'" in problem for problem in check_manifest(film({}), rows))


def test_jobs_of_the_wrong_shape_are_problems_not_exceptions() -> None:
    text = "\n".join(check_manifest(film({}), ["x", job("a", payload=[]), {"id": "b", "dependsOn": "a"}, {}]))
    assert "jobs[0] is 'x'" in text
    assert "jobs[1].payload is []" in text
    assert "jobs[2].dependsOn is 'a'" in text


def test_payloads_are_checked_with_the_models_that_are_known() -> None:
    class Model(BaseModel):
        seconds: float = Field(gt=0)
        url: str = ""

    jobs = [job("a", type="known", payload={"seconds": -1}), job("b", type="other", payload={"seconds": -1})]
    problems = check_manifest(film({"visuals": []}), jobs, payload_models={"known": Model})
    assert only(problems).startswith("jobs[0] a.payload.seconds is -1")


def test_templates_must_name_what_exists_and_what_is_waited_for() -> None:
    jobs = [
        job("speak"),
        job("late", payload={"url": "{{job_result:speak}}"}),
        job("good", "speak", payload={"url": "{{job_result:speak}}"}),
        job("lost", payload={"deep": [{"url": "{{asset_url:nowhere}}"}]}),
    ]
    problems = check_manifest(film({"visuals": []}), jobs)
    assert len(problems) == 2
    assert problems[0].startswith("jobs[1] late.payload.url needs what speak makes, but dependsOn does not")
    assert problems[1].startswith("jobs[3] lost.payload.deep[0].url names 'nowhere'")


def test_a_stand_in_counts_like_its_template() -> None:
    jobs = [job("lips", type="lip_sync_lypsso", payload={"audioJobId": "speech", "videoAssetId": "face"})]
    text = "\n".join(check_manifest(film({"visuals": []}), jobs))
    assert "lips.payload.audioJobId names 'speech', which is no job" in text
    assert "lips.payload.videoAssetId names 'face'" in text


def test_what_derived_jobs_need_is_asked_for() -> None:
    manifest = film({"visuals": []}, {"narration": "", "visuals": [{"assetId": "face", "lipSync": True}]})
    manifest["assets"] = {"face": {"source": "user"}}
    manifest["audio"] = {}
    text = "\n".join(check_manifest(manifest))
    assert "scenes[0].tts.voiceId is missing" in text
    assert "scenes[0].visuals is empty" in text
    assert "scenes[1].visuals[0].lipSync is set, but scene s2 has no narration" in text
    assert "'face' has no originUrl and no job makes it; upload it first" in text


def test_sounds_and_music_must_lie_within_the_film() -> None:
    audio = {
        "ttsDefaults": {"voiceId": VOICE},
        "sfx": [{"id": "a", "cue": "boom", "sceneId": "ghost"}, {"id": "b", "cue": "boom", "startAt": 50}],
        "music": {"cueMap": {"m": {"startSec": 60}}},
    }
    text = "\n".join(check_manifest(film({}, audio=audio)))
    assert "audio.sfx[0].sceneId 'ghost' is not a scene (s1)" in text
    assert "audio.sfx[1].startAt is 50" in text
    assert "audio.music.cueMap.m.startSec is 60" in text


def test_one_malformed_field_does_not_hide_the_rest() -> None:
    manifest = film({}, {"musicCue": "nope", "narration": 5}, {"durationSeconds": 4})
    manifest["metadata"] |= {"durationSeconds": 30, "aspectRatio": "21:9"}
    manifest["audio"] = {"sfx": [{"id": "x", "cue": "boom", "sceneId": "ghost", "promptInfluence": "much"}]}
    manifest["jobs"] = [job("a", "lost", payload={"text": "{{job_result:ghost}}"}), job("b", payload=[])]
    problems = check_manifest(manifest, payload_models=models())
    for start in (
        "metadata.aspectRatio is '21:9'",
        "scenes[1].narration is 5",
        "audio.sfx[0].promptInfluence is 'much'",
        "metadata.durationSeconds is 30, but the scenes add up to 14 s",
        "scenes[1].musicCue 'nope' is not in audio.music.cueMap",
        "audio.sfx[0].sceneId 'ghost' is not a scene",
        "jobs[1].payload is []",
        "jobs[0] a.dependsOn names 'lost'",
        "jobs[0] a.payload.text names 'ghost'",
        "jobs[0] a.payload.voiceId: field required",
    ):
        assert any(problem.startswith(start) for problem in problems), (start, problems)


def test_a_missing_voice_is_listed_beside_a_malformed_field() -> None:
    manifest = film({"startAtSec": "soon"}, audio={})
    manifest["audio"] = {"ttsDefaults": {}}
    problems = check_manifest(manifest, payload_models=models())
    assert [problem.split(" ")[0] for problem in problems] == [
        "scenes[0].startAtSec",
        "scenes[0].tts.voiceId",
    ]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("metadata",), None),
        (("metadata", "durationSeconds"), "long"),
        (("scenes",), []),
        (("scenes",), "none"),
        (("scenes", 0), "a scene"),
        (("scenes", 0, "id"), ["s1"]),
        (("scenes", 0, "id"), None),
        (("scenes", 0, "durationSeconds"), "long"),
        (("scenes", 0, "durationSeconds"), 10**400),
        (("scenes", 0, "narration"), 7),
        (("scenes", 0, "tts"), "loud"),
        (("scenes", 0, "visuals"), 1),
        (("scenes", 0, "visuals", 0), "x"),
        (("scenes", 0, "visuals", 0, "lipSync"), "yes please"),
        (("assets",), []),
        (("assets", "img_s1"), "x"),
        (("assets", "img_s1", "source"), "moon"),
        (("assets", "img_s1", "originUrl"), 5),
        (("audio",), "loud"),
        (("audio", "ttsDefaults"), []),
        (("audio", "ttsDefaults", "voiceId"), 4),
        (("audio", "ttsDefaults", "stability"), "wild"),
        (("audio", "music", "cueMap"), []),
        (("audio", "music", "cueMap", "m"), "x"),
        (("audio", "music", "cueMap", "m", "instruments"), ["drum", 5]),
        (("audio", "sfx"), {}),
        (("audio", "sfx", 0), "boom"),
        (("audio", "sfx", 0, "id"), 5),
        (("audio", "sfx", 0, "cue"), None),
        (("effects",), 1),
        (("render",), []),
        (("jobs",), {"a": 1}),
        (("jobs",), "all"),
    ],
)
def test_a_malformed_part_is_the_only_problem_of_a_manifest_that_is_well_otherwise(
    where: tuple[Any, ...], value: Any
) -> None:
    manifest = film({"musicCue": "m"}, {})
    manifest["audio"] |= {
        "music": {"cueMap": {"m": {"mood": "calm"}}},
        "sfx": [{"id": "bang", "cue": "boom", "sceneId": "s1"}],
    }
    assert check_manifest(manifest, payload_models=models()) == []
    parent: Any = manifest
    for part in where[:-1]:
        parent = parent[part]
    parent[where[-1]] = value
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]

    problems = check_manifest(manifest, payload_models=models())

    assert problems
    assert all(problem.startswith(name) for problem in problems), problems


def test_a_wrong_id_or_dependency_is_a_problem_and_not_an_exception() -> None:
    jobs = [job("a", payload={"url": "{{job_result:b}}"}) | {"dependsOn": [{"b": 1}]}, job("b", "c")]
    text = "\n".join(check_manifest(film({"visuals": []}), jobs))
    assert "jobs[0].dependsOn is [{'b': 1}]; write a list of job ids" in text
    assert "b.dependsOn names 'c'" in text
    assert "dependsOn does not name it" not in text


def test_an_asset_id_that_is_no_text_is_left_to_the_payloads_model() -> None:
    jobs = [job("i", type="gen_image_falai", payload={"prompt": "p", "assetId": ["img_s1"]})]
    problems = check_manifest(film({}), jobs, payload_models=models())
    assert any(problem.startswith("jobs[0] i.payload.assetId is ['img_s1']") for problem in problems)


def test_jobs_keep_their_number_after_one_that_is_none() -> None:
    text = "\n".join(check_manifest(film({"visuals": []}), ["x", job("a", "ghost")]))
    assert "jobs[1] a.dependsOn names 'ghost'" in text


def test_a_duplicate_id_does_not_hide_a_circle() -> None:
    for jobs in ([job("a", "b"), job("b", "a"), job("a")], [job("a"), job("b", "a"), job("a", "b")]):
        problems = check_manifest(film({"visuals": []}), jobs)
        assert any("jobs[].id 'a' is used 2 times" in problem for problem in problems)
        assert any("circle" in problem and "a -> b -> a" in problem for problem in problems)


def test_a_problem_of_a_payload_reads_like_one_of_ours() -> None:
    jobs = [
        job("i", type="gen_image_falai", payload={"prompt": " ", "imageSize": "huge", "model": "nope"}),
    ]
    problems = check_manifest(film({"visuals": []}), jobs, payload_models=models())
    assert len(problems) == 3
    assert problems[0] == "jobs[0] i.payload.prompt is ' ': is blank: say what the picture shows."
    assert problems[1].startswith("jobs[0] i.payload.model: 'nope' is no image model. Known: flux-srpo (")
    assert problems[2].startswith("jobs[0] i.payload.imageSize: 'huge' is no image size; give one of ")
    assert "Value error" not in "".join(problems) and ".." not in "".join(problems)
