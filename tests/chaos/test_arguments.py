"""What `make chaos` can be told, by options and by the environment: a wrong one starts no long run."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import parse


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHAOS_SEED", "CHAOS_RUNS", "KILLS"):
        monkeypatch.delenv(name, raising=False)


def test_without_options_one_run_and_every_kill_point() -> None:
    chosen = parse([])
    assert (chosen.runs, chosen.seed, chosen.kills, chosen.fast) == (1, None, 10, False)


def test_options_count_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHAOS_SEED", "7"), ("CHAOS_RUNS", "3"), ("KILLS", "0")):
        monkeypatch.setenv(name, value)
    chosen = parse([])
    assert (chosen.runs, chosen.seed, chosen.kills) == (3, 7, 0)
    chosen = parse(["--seed", "0", "--runs=2", "--kills", "5", "--fast"])
    assert (chosen.runs, chosen.seed, chosen.kills, chosen.fast) == (2, 0, 5, True)


def test_one_part_alone() -> None:
    chosen = parse(["--only", "random"])
    assert (chosen.runs, chosen.kills) == (1, 0)
    chosen = parse(["--only", "kill-points", "--kills", "2"])
    assert (chosen.runs, chosen.kills) == (0, 2)


def test_help_says_how_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("--only", "--seed", "--runs", "--kills", "CHAOS_SEED", "KILLS"))


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--hlep"], {}, "unrecognized arguments: --hlep"),
        (["fast"], {}, "unrecognized arguments: fast"),
        (["--only", "kills"], {}, "invalid choice: 'kills'"),
        (["--kills", "-1"], {}, "--kills: invalid count value: '-1'"),
        ([], {"KILLS": "many"}, "--kills: invalid count value: 'many'"),
        ([], {"CHAOS_SEED": "x"}, "--seed: invalid count value: 'x'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(
    arguments: list[str],
    environment: dict[str, str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
