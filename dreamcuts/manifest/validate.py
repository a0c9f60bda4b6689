"""What is wrong with a manifest and its jobs: everything at once, each with its place and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from dreamcuts.errors import ManifestInvalid
from dreamcuts.manifest.assets import PRODUCES
from dreamcuts.manifest.decompose import JobSpec, decompose
from dreamcuts.manifest.job_checks import (
    PLACEHOLDER,
    ListedJob,
    duplicates,
    job_problems,
    names,
    placeholder_problems,
    read_jobs,
    show,
)
from dreamcuts.manifest.model import Manifest, spoken
from dreamcuts.manifest.salvage import Place, lengths_are_known, mentions, path, salvage
from dreamcuts.wording import reason

TOLERANCE_S = 0.01

PayloadModels = Mapping[str, type[BaseModel]]


def plan_manifest(manifest: Mapping[str, Any], payload_models: PayloadModels | None = None) -> list[JobSpec]:
    """The jobs of a manifest that has no problems. Raises ManifestInvalid with all of them otherwise."""
    problems = check_manifest(manifest, payload_models=payload_models)
    if problems:
        raise ManifestInvalid(problems)
    return decompose(manifest)


def check_manifest(
    manifest: Mapping[str, Any],
    jobs: Sequence[Mapping[str, Any]] | None = None,
    *,
    payload_models: PayloadModels | None = None,
) -> list[str]:
    """All problems of a manifest and its jobs, each naming the field, its value and the way out.

    `jobs` are those that will be inserted, in the manifest's or the table's spelling; by default the
    manifest's own, or those derived from it. `payload_models` (job type -> model) lets payloads be checked as
    well; a type without a model is no problem, since a plugin may serve it. An empty list means all is well.
    """
    problems: list[str] = []
    model: Manifest | None
    try:
        model, broken = Manifest.model_validate(manifest), list[Place]()
    except ValidationError as error:
        problems += _model_problems("", error)
        model, broken = salvage(manifest, error)
        if jobs is not None:  # the manifest's own are not looked at
            broken = [place for place in broken if place[0] != "jobs"]
    given = jobs if jobs is not None else (manifest.get("jobs") if isinstance(manifest, Mapping) else None)
    later: list[str] = []
    listed: list[ListedJob] = []
    if isinstance(given, list | tuple) and given:
        listed = read_jobs(given, later)
    elif model is not None and jobs is None and not given:
        later += _derivation_problems(model)
        listed = [ListedJob(number, spec) for number, spec in enumerate(decompose(model))]
    all_read = not given or (isinstance(given, list | tuple) and len(listed) == len(given))
    makers_known = all_read and not any("payload" in job.unread for job in listed)
    if model is not None:
        later += _flag_problems(model)
        later += _time_problems(model, *lengths_are_known(broken))
        later += _identity_problems(model)
        later += _reference_problems(model, listed, makers_known)
    later += job_problems(listed)
    if model is not None:
        later += placeholder_problems(model, listed, makers_known)
    for job in listed:
        payload_model = (payload_models or {}).get(job.spec.type)
        if payload_model is not None and "payload" not in job.unread:
            # A derived payload lacks what could not be read of the manifest, and that is listed already.
            gaps = not (broken and not given)
            later += _payload_problems(f"{job.where}.payload", payload_model, job.spec.payload, gaps=gaps)
    return list(dict.fromkeys([*problems, *(text for text in later if not mentions(text, broken))]))


def _model_problems(prefix: str, error: ValidationError, *, gaps: bool = True) -> Iterable[str]:
    for issue in error.errors(include_url=False):
        is_missing, text = issue["type"] == "missing", reason(issue)
        if is_missing and not gaps:
            continue
        where = (prefix + _below(issue["loc"])).lstrip(".") or "manifest"
        is_said = isinstance(issue["input"], str) and repr(issue["input"]) in text
        value = "" if is_missing or is_said else f" is {show(issue['input'])}"
        yield f"{where}{value}: {text[:1].lower()}{text[1:]}."


def _below(location: tuple[int | str, ...]) -> str:
    text = path(location)
    return text if not text or text.startswith("[") else f".{text}"


def _payload_problems(
    prefix: str, model: type[BaseModel], payload: Mapping[str, Any], *, gaps: bool = True
) -> Iterable[str]:
    """Problems of a payload. Fields whose value comes from a template or a stand-in are not there yet.

    Without `gaps`, fields that are missing are no problem.
    """
    filled = {
        key: PLACEHOLDER.sub("https://example.com/asset", value) if isinstance(value, str) else value
        for key, value in payload.items()
    }
    for key, stand_in in (("audioUrl", "audioJobId"), ("videoUrl", "videoAssetId")):
        if payload.get(stand_in) and not payload.get(key):
            filled[key] = "https://example.com/asset"
    try:
        model.model_validate(filled)
    except ValidationError as error:
        yield from _model_problems(prefix, error, gaps=gaps)


def _flag_problems(model: Manifest) -> Iterable[str]:
    """Feature flags that money depends on: one that cannot be read must not be taken for none."""
    flags = model.metadata.feature_flags
    limit, reuse = flags.get("maxTotalCost"), flags.get("reuseAssets")
    if limit is not None:
        try:
            readable = not isinstance(limit, bool) and 0 <= float(limit) < float("inf")
        except (TypeError, ValueError):
            readable = False
        if not readable:
            yield f"metadata.featureFlags.maxTotalCost is {show(limit)}; write US dollars, 0 or more."
    if reuse not in (None, True, False, "always"):
        yield f'metadata.featureFlags.reuseAssets is {show(reuse)}; write true, false or "always".'


def _time_problems(model: Manifest, film_known: bool, scenes_known: bool) -> Iterable[str]:
    """Times that contradict each other, as far as the lengths of the film and its scenes are known."""
    if scenes_known:
        yield from _scene_time_problems(model, film_known)
    wanted = model.metadata.duration_seconds
    for cue_id, cue in model.audio.music.cue_map.items():
        if film_known and (cue.start_sec or 0) >= wanted:
            yield (
                f"audio.music.cueMap.{cue_id}.startSec is {cue.start_sec:g}, "
                f"after the film's end at {wanted:g} s; start it earlier."
            )
    for number, sound in enumerate(model.audio.sfx):
        if film_known and scenes_known and (start := model.sound_start(sound)) >= wanted:
            yield (
                f"audio.sfx[{number}].startAt is {sound.start_at:g}, which puts {sound.id} at {start:g} s, "
                f"after the film's end at {wanted:g} s; start it earlier."
            )


def _scene_time_problems(model: Manifest, film_known: bool) -> Iterable[str]:
    total = sum(scene.duration_seconds for scene in model.scenes)
    wanted = model.metadata.duration_seconds
    if film_known and abs(total - wanted) > TOLERANCE_S:
        yield (
            f"metadata.durationSeconds is {wanted:g}, but the scenes add up to {total:g} s "
            f"({' + '.join(f'{scene.duration_seconds:g}' for scene in model.scenes)}); make them equal."
        )
    positions = {id(scene): number for number, scene in enumerate(model.scenes)}
    for scene, start in model.in_order():
        given = scene.start_at_sec
        if given is not None and abs(given - start) > TOLERANCE_S:
            yield (
                f"scenes[{positions[id(scene)]}].startAtSec is {given:g}, but the scenes before {scene.id} "
                f"end at {start:g} s; correct it, or leave startAtSec out everywhere."
            )


def _identity_problems(model: Manifest) -> Iterable[str]:
    yield from duplicates("scenes[].id", (scene.id for scene in model.scenes))
    yield from duplicates("audio.sfx[].id", (sound.id for sound in model.audio.sfx))
    yield from duplicates("assets.*.id", (asset.id for asset in model.assets.values() if asset.id))
    asset_ids = {key: asset.id for key, asset in model.assets.items()}
    cue_ids = {key: cue.id for key, cue in model.audio.music.cue_map.items()}
    for where, ids in (("assets", asset_ids), ("audio.music.cueMap", cue_ids)):
        for key, own in ids.items():
            if own and own != key:
                yield f"{where}.{key}.id is {own!r}; write {key!r}, the key that it stands under."


def _reference_problems(model: Manifest, listed: Sequence[ListedJob], makers_known: bool) -> Iterable[str]:
    """Names that stand for nothing. Without `makers_known`, a job that cannot be read may make any asset."""
    made = [job.spec.payload.get(key) for job in listed for key in PRODUCES]
    scene_ids = [scene.id for scene in model.scenes]
    for number, scene in enumerate(model.scenes):
        if scene.music_cue and scene.music_cue not in model.audio.music.cue_map:
            yield (
                f"scenes[{number}].musicCue {scene.music_cue!r} is not in audio.music.cueMap "
                f"({names(model.audio.music.cue_map)}); add it there or correct the name."
            )
        for place, visual in enumerate(scene.visuals):
            where = f"scenes[{number}].visuals[{place}].assetId {visual.asset_id!r}"
            asset = model.assets.get(visual.asset_id or "")
            if not visual.asset_id or visual.asset_id in made:
                continue
            if asset is None:
                yield f"{where} is not in assets ({names(model.assets)}); add it there or correct the name."
            elif not asset.origin_url and makers_known:
                way_out = "add a job that makes it" if asset.source == "generated" else "upload it first"
                yield f"{where} has no originUrl and no job makes it; {way_out}."
    for number, sound in enumerate(model.audio.sfx):
        if sound.scene_id and sound.scene_id not in scene_ids:
            yield (
                f"audio.sfx[{number}].sceneId {sound.scene_id!r} is not a scene ({names(scene_ids)}); "
                "correct it, or leave it out to count startAt from the start of the film."
            )


def _derivation_problems(model: Manifest) -> Iterable[str]:
    """What is needed only if the jobs follow from the manifest."""
    default_voice = model.audio.tts_defaults.voice_id
    for number, scene in enumerate(model.scenes):
        has_words = bool(spoken(scene.narration))
        if has_words and not (scene.tts.voice_id or default_voice):
            yield (
                f"scenes[{number}].tts.voiceId is missing, and audio.ttsDefaults.voiceId too; "
                "name the voice that speaks the narration."
            )
        if not scene.visuals:
            yield f"scenes[{number}].visuals is empty; name at least one asset to show in scene {scene.id}."
        for place, visual in enumerate(scene.visuals):
            where = f"scenes[{number}].visuals[{place}]"
            if visual.lip_sync and not has_words:
                yield f"{where}.lipSync is set, but scene {scene.id} has no narration; add one or drop it."
            if visual.lip_sync and not visual.asset_id:
                yield f"{where}.lipSync is set without an assetId; name the asset that shows the face."
            if visual.type == "user" and not visual.asset_id:
                yield f"{where}.assetId is missing; name the user's asset."
