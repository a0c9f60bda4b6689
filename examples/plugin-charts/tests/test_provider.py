"""The provider keeps the promises of a queued provider."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from dreamcuts_charts.payload import ChartPayload
from dreamcuts_charts.provider import KEPT_S, ChartsProvider

from dreamcuts.errors import ProviderError
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.testing import check_provider

PAYLOAD = ChartPayload.model_validate({"data": [{"label": "a", "value": 1}]})
REQUEST: dict[str, Any] = PAYLOAD.request(320, 180)


def test_it_keeps_its_promises(tmp_path: Path) -> None:
    check = check_provider(
        ChartsProvider,
        {"CHARTS_DIR": tmp_path},
        endpoint="bar",
        request=REQUEST,
        bad_request={**REQUEST, "labels": []},
        gone=Ticket("0" * 32),
    )
    assert {"resuming from the stored ticket", "polling a request that is gone"} <= set(check.passed)


def test_a_request_outlives_the_provider_that_took_it(tmp_path: Path) -> None:
    """A worker that is killed leaves a request that nobody is drawing; the next one to ask draws it."""
    number = "a" * 32
    (tmp_path / f"{number}.json").write_text(json.dumps({"kind": "line", "request": REQUEST}))

    async def ask() -> Done:
        provider = ChartsProvider(tmp_path)
        assert isinstance(await provider.poll("line", Ticket(number)), Pending)
        await provider.aclose()  # waits for the chart
        answer = await ChartsProvider(tmp_path).poll("line", Ticket(number))
        assert isinstance(answer, Done)
        return answer

    assert Path(anyio.run(ask).output["file"]).read_bytes().startswith(b"\x89PNG")


def test_old_requests_are_cleared_away(tmp_path: Path) -> None:
    old, young = tmp_path / "old.png", tmp_path / "young.png"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, time.time() - KEPT_S - 60))

    async def submit() -> None:
        provider = ChartsProvider(tmp_path)
        await provider.submit("bar", REQUEST)
        await provider.aclose()

    anyio.run(submit)
    assert young.exists() and not old.exists()


def test_a_ticket_names_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.png").touch()
    (tmp_path / "secret.notes").write_text("[]")

    async def ask() -> None:
        provider = ChartsProvider(tmp_path / "charts")
        with pytest.raises(ProviderError) as raised:
            await provider.poll("bar", Ticket("../secret"))
        assert raised.value.code == "request_gone"
        await provider.aclose()

    anyio.run(ask)
