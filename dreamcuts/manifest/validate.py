"""What is wrong with a manifest and its jobs: everything at once, each with its place and the way out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from dreamcuts.errors import ManifestInvalid
from dreamcuts.manifest.assets import PRODUCES
from dreamcuts.manifest.decompose import LIPSYNC, JobSpec, decompose, given_job
from dreamcuts.manifest.model import Manifest, spoken

TOLERANCE_S = 0.01
PLACEHOLDER = re.compile(r"\{\{\s*(job_result|asset_url)\s*:\s*([^{}]+?)\s*\}\}")

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
    try:
        model: Manifest | None = Manifest.model_validate(manifest)
        problems: list[str] = []
    except ValidationError as error:
        model, problems = None, list(_model_problems("", error))
    given = jobs if jobs is not None else (manifest.get("jobs") if isinstance(manifest, Mapping) else None)
    specs: list[JobSpec] = []
    if given and isinstance(given, Sequence):
        specs = _given(given, problems)
    elif model is not None and jobs is None:
        problems += _derivation_problems(model)
        specs = decompose(model)
    if model is not None:
        problems += _flag_problems(model)
        problems += _time_problems(model)
        problems += _identity_problems(model)
        problems += _reference_problems(model, specs)
    problems += _job_problems(specs)
    if model is not None:
        problems += _placeholder_problems(model, specs)
    for number, job in enumerate(specs):
        payload_model = (payload_models or {}).get(job.type)
        if payload_model is not None:
            problems += _payload_problems(f"jobs[{number}] {job.job_id}.payload", payload_model, job.payload)
    return list(dict.fromkeys(problems))


def _given(entries: Sequence[Any], problems: list[str]) -> list[JobSpec]:
    specs = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            problems.append(f"jobs[{number}] is {_show(entry)}; write an object with id, type and payload.")
            continue
        wrong = [
            f"jobs[{number}].{name} is {_show(entry[name])}; write {what}."
            for name, kind, what in (
                ("payload", Mapping, "an object"),
                ("dependsOn", list, "a list of job ids"),
                ("depends_on", list, "a list of job ids"),
                ("retryPolicy", Mapping, "an object"),
                ("retry_policy", Mapping, "an object"),
            )
            if entry.get(name) is not None and not isinstance(entry[name], kind)
        ]
        if wrong:
            problems += wrong
            continue
        specs.append(given_job(entry))
    return specs


def _model_problems(prefix: str, error: ValidationError) -> Iterable[str]:
    for issue in error.errors(include_url=False):
        where = (prefix + _path(issue["loc"])).lstrip(".") or "manifest"
        value = "" if issue["type"] == "missing" else f" is {_show(issue['input'])}"
        yield f"{where}{value}: {issue['msg'][:1].lower()}{issue['msg'][1:]}."


def _payload_problems(prefix: str, model: type[BaseModel], payload: Mapping[str, Any]) -> Iterable[str]:
    """Problems of a payload. Fields whose value comes from a template or a stand-in are not there yet."""
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
        yield from _model_problems(prefix, error)


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
            yield f"metadata.featureFlags.maxTotalCost is {_show(limit)}; write US dollars, 0 or more."
    if reuse not in (None, True, False, "always"):
        yield f'metadata.featureFlags.reuseAssets is {_show(reuse)}; write true, false or "always".'


def _time_problems(model: Manifest) -> Iterable[str]:
    total = sum(scene.duration_seconds for scene in model.scenes)
    wanted = model.metadata.duration_seconds
    if abs(total - wanted) > TOLERANCE_S:
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
    for cue_id, cue in model.audio.music.cue_map.items():
        if (cue.start_sec or 0) >= wanted:
            yield (
                f"audio.music.cueMap.{cue_id}.startSec is {cue.start_sec:g}, "
                f"after the film's end at {wanted:g} s; start it earlier."
            )
    for number, sound in enumerate(model.audio.sfx):
        if (start := model.sound_start(sound)) >= wanted:
            yield (
                f"audio.sfx[{number}].startAt is {sound.start_at:g}, which puts {sound.id} at {start:g} s, "
                f"after the film's end at {wanted:g} s; start it earlier."
            )


def _identity_problems(model: Manifest) -> Iterable[str]:
    yield from _duplicates("scenes[].id", (scene.id for scene in model.scenes))
    yield from _duplicates("audio.sfx[].id", (sound.id for sound in model.audio.sfx))
    yield from _duplicates("assets.*.id", (asset.id for asset in model.assets.values() if asset.id))
    asset_ids = {key: asset.id for key, asset in model.assets.items()}
    cue_ids = {key: cue.id for key, cue in model.audio.music.cue_map.items()}
    for where, ids in (("assets", asset_ids), ("audio.music.cueMap", cue_ids)):
        for key, own in ids.items():
            if own and own != key:
                yield f"{where}.{key}.id is {own!r}; write {key!r}, the key that it stands under."


def _duplicates(where: str, names: Iterable[str]) -> Iterable[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{where} {name!r} is used {count} times; give each its own."


def _reference_problems(model: Manifest, specs: Sequence[JobSpec]) -> Iterable[str]:
    made = {spec.payload.get(key) for spec in specs for key in PRODUCES}
    scene_ids = [scene.id for scene in model.scenes]
    for number, scene in enumerate(model.scenes):
        if scene.music_cue and scene.music_cue not in model.audio.music.cue_map:
            yield (
                f"scenes[{number}].musicCue {scene.music_cue!r} is not in audio.music.cueMap "
                f"({_names(model.audio.music.cue_map)}); add it there or correct the name."
            )
        for place, visual in enumerate(scene.visuals):
            where = f"scenes[{number}].visuals[{place}].assetId {visual.asset_id!r}"
            asset = model.assets.get(visual.asset_id or "")
            if not visual.asset_id or visual.asset_id in made:
                continue
            if asset is None:
                yield f"{where} is not in assets ({_names(model.assets)}); add it there or correct the name."
            elif not asset.origin_url:
                way_out = "add a job that makes it" if asset.source == "generated" else "upload it first"
                yield f"{where} has no originUrl and no job makes it; {way_out}."
    for number, sound in enumerate(model.audio.sfx):
        if sound.scene_id and sound.scene_id not in scene_ids:
            yield (
                f"audio.sfx[{number}].sceneId {sound.scene_id!r} is not a scene ({_names(scene_ids)}); "
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


def _job_problems(specs: Sequence[JobSpec]) -> Iterable[str]:
    yield from _duplicates("jobs[].id", (spec.job_id for spec in specs if spec.job_id))
    known = {spec.job_id: spec for spec in specs}
    for number, spec in enumerate(specs):
        if not spec.job_id:
            yield f"jobs[{number}].id is missing; every job needs one of its own."
        if not spec.type:
            yield f"jobs[{number}] {spec.job_id}.type is missing; e.g. tts_elevenlabs."
        if not isinstance(spec.max_attempts, int) or spec.max_attempts < 1:
            yield f"jobs[{number}] {spec.job_id}.maxAttempts is {_show(spec.max_attempts)}; write 1 or more."
        for name in spec.depends_on:
            if name not in known:
                yield (
                    f"jobs[{number}] {spec.job_id}.dependsOn names {_show(name)}, which is not a job of this "
                    f"manifest ({_names(known)}); add that job or drop the dependency."
                )
    for cycle in _cycles(known):
        yield f"jobs depend on each other in a circle: {' -> '.join(cycle)}; drop one of these dependencies."


def _cycles(known: Mapping[str, JobSpec]) -> list[list[str]]:
    """Circles among the dependencies, one for each knot; found by depth-first search without recursion."""
    done: set[str] = set()
    cycles = []
    for root in known:
        path: list[str] = []
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                path.pop()
                done.add(name)
            elif name in path:
                cycles.append([*path[path.index(name) :], name])
            elif name not in done:
                path.append(name)
                stack.append((name, True))
                stack += [(other, False) for other in known[name].depends_on if other in known]
    return cycles


def _placeholder_problems(model: Manifest, specs: Sequence[JobSpec]) -> Iterable[str]:
    """Templates that could never be resolved, or that could be reached before what they name is made."""
    known = {spec.job_id: spec for spec in specs}
    for number, spec in enumerate(specs):
        waits_for = _ancestors(spec, known)
        for field, kind, name in _placeholders(spec):
            where = f"jobs[{number}] {spec.job_id}.payload.{field}"
            makers = {job.job_id for job in specs if any(job.payload.get(key) == name for key in PRODUCES)}
            asset = model.assets.get(name)
            if kind == "asset_url" and asset is not None and asset.origin_url:
                continue
            makers = makers if kind == "asset_url" else {name} & set(known)
            if not makers:
                options = known if kind == "job_result" else model.assets
                what = "job" if kind == "job_result" else "asset that a job makes or a user brought"
                yield f"{where} names {name!r}, which is no {what} ({_names(options)}); correct the name."
            elif not makers & waits_for:
                yield (
                    f"{where} needs what {_names(sorted(makers))} makes, but dependsOn does not name it; "
                    "add it, or the job may run too early."
                )


def _placeholders(spec: JobSpec) -> list[tuple[str, str, str]]:
    """(field, kind, name) of every template and stand-in in a payload."""

    def walk(value: Any, field: str) -> Iterable[tuple[str, str, str]]:
        if isinstance(value, str):
            yield from ((field, match[1], match[2]) for match in PLACEHOLDER.finditer(value))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, f"{field}.{key}" if field else str(key))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from walk(item, f"{field}[{number}]")

    found = list(walk(spec.payload, ""))
    if spec.type == LIPSYNC:
        for key, url_key, kind in (
            ("audioJobId", "audioUrl", "job_result"),
            ("videoAssetId", "videoUrl", "asset_url"),
        ):
            name = spec.payload.get(key)
            if name and not spec.payload.get(url_key):
                found.append((key, kind, str(name)))
    return found


def _ancestors(spec: JobSpec, known: Mapping[str, JobSpec]) -> set[str]:
    seen: set[str] = set()
    todo = list(spec.depends_on)
    while todo:
        name = todo.pop()
        if name not in seen and name in known:
            seen.add(name)
            todo += known[name].depends_on
    return seen


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _names(names: Iterable[str], limit: int = 12) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) or "there is none") + more


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
