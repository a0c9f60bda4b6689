"""A broken plugin is named, with its distribution, and stops nobody: in a real worker process."""

from __future__ import annotations

import psycopg

from dreamcuts.client import Client
from tests.plugins.conftest import Site

GOOD = """
from __future__ import annotations
from datetime import timedelta
from dreamcuts.jobs.base import Payload, Result

class GoodJob:
    name = "good"
    short_name = "good"
    payload_model = Payload
    default_slots = 1
    retry_delay = timedelta(seconds=1)
    time_limit = timedelta(minutes=1)
    providers = ()
    features = ()

    async def run(self, ctx, payload):
        return Result(data={"who": type(self).__name__})

class Shapeless(GoodJob):
    name = "shapeless"
    short_name = "not a word"
    default_slots = 0
    payload_model = dict
    providers = "fal"
    time_limit = 60

    def run(self, ctx, payload):
        return None

class Bare:
    name = "bare"
    def run(self, ctx, payload): ...

class Thief(GoodJob):
    name = "tts_elevenlabs"
    short_name = "thief"

class ShortThief(GoodJob):
    name = "speech"
    short_name = "tts"

class Fal:
    name = "fal"
    settings_needed = ()
    @classmethod
    def from_settings(cls, settings): raise AssertionError("not the real fal")
    async def aclose(self): ...
"""


def jobs(**points: str) -> str:
    return "[dreamcuts.jobs]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())


def providers(**points: str) -> str:
    return jobs(**points).replace("jobs]", "providers]")


def left_out(stderr: str) -> dict[str, str]:
    """The distribution and the reason of what was left out: `{"acme of acme-dist": "ImportError: ..."}`."""
    found: dict[str, str] = {}
    for line in stderr.splitlines():
        if " is left out: " in line:
            who, _, why = line.partition("Plugin ")[2].partition(" is left out: ")
            assert who not in found, "reported twice"
            found[who] = why
    return found


def test_a_worker_goes_on_without_the_broken_ones(site: Site, connection: psycopg.Connection) -> None:
    site.add("good-plugin", jobs(good="good_plugin:GoodJob"), good_plugin=GOOD)
    site.add("no-import", jobs(lost="no_import:Job"), no_import="import no_such_module_anywhere\n")
    site.add("no-syntax", jobs(garbled="no_syntax:Job"), no_syntax="class Job(:\n")
    site.add("no-name", jobs(nameless="good_plugin:NoSuchJob"))
    site.add("no-module", jobs(absent="absent_module:Job"))
    site.add("quits", jobs(quitter="quits:Job"), quits="import sys\nsys.exit('goodbye')\n")
    site.add("no-shape", jobs(shapeless="good_plugin:Shapeless", bare="good_plugin:Bare"))
    site.add("same-name", jobs(tts_elevenlabs="good_plugin:Thief", image="good_plugin:Thief"))
    site.add("same-short-name", jobs(speech="good_plugin:ShortThief"))
    site.add(
        "bad-provider", providers(acme="good_plugin:Bare", fal="good_plugin:Fal", misnamed="good_plugin:Fal")
    )
    Client(connection).enqueue("good", {})

    worked = site.dreamcuts("work", "--types", "good", "--until-idle")

    assert worked.returncode == 0, worked.stderr
    assert "Traceback" not in worked.stderr
    row = connection.execute("select status, result ->> 'who' from dreamcut_jobs").fetchone()
    assert row == ("completed", "GoodJob")
    found = left_out(worked.stderr)
    expected = {
        "lost of no-import": "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        "garbled of no-syntax": "SyntaxError: ",
        "nameless of no-name": "AttributeError: module 'good_plugin' has no attribute 'NoSuchJob'",
        "absent of no-module": "ModuleNotFoundError: No module named 'absent_module'",
        "quitter of quits": "SystemExit: goodbye",
        "shapeless of no-shape": "TypeError: good_plugin:Shapeless is no job type: short_name must be",
        "bare of no-shape": "TypeError: good_plugin:Bare is no job type: it has no short_name, payload_model",
        "tts_elevenlabs of same-name": "another plugin of that name was found first",
        "image of same-name": "ValueError: the name 'tts_elevenlabs' belongs to the job type tts_elevenlabs",
        "speech of same-short-name": "ValueError: the name 'tts' belongs to the job type tts_elevenlabs",
        "acme of bad-provider": "TypeError: good_plugin:Bare is no provider: it has no settings_needed",
        "fal of bad-provider": "another plugin of that name was found first",
        "misnamed of bad-provider": "ValueError: it is registered as 'misnamed', but its class is named",
    }
    assert found.keys() == expected.keys()
    for who, why in expected.items():
        assert found[who].startswith(why), (who, found[who])
    for field in ("default_slots", "payload_model", "providers", "time_limit", "run"):
        assert f"{field} must be" in found["shapeless of no-shape"], field


def test_the_built_in_ones_keep_their_names(site: Site) -> None:
    site.add("same-name", jobs(aaa="good_plugin:Thief", bbb="good_plugin:ShortThief"), good_plugin=GOOD)
    site.add("same-provider", providers(fal="good_plugin:Fal"))
    done = site.run(
        "-c",
        "from dreamcuts.jobs.registry import load_job_types, resolve_types\n"
        "from dreamcuts.providers.registry import load_providers\n"
        "(tts,) = resolve_types(['tts'], load_job_types())\n"
        "print(type(tts).__module__, load_providers()['fal'].__module__)",
    )
    assert done.stdout.split() == ["dreamcuts.jobs.tts", "dreamcuts.providers.fal"], done.stderr


def test_commands_that_need_no_plugin_go_on_too(site: Site) -> None:
    site.add("no-import", jobs(lost="no_import:Job"), no_import="import no_such_module_anywhere\n")
    done = site.dreamcuts("enqueue", "generate_chart_gptimage", "--json")
    assert done.returncode == 0, done.stderr
    assert "Plugin lost of no-import is left out" in done.stderr
