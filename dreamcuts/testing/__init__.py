"""The kit for those who write plugins: run a job in one line, and hold a provider to what it promises.

    from dreamcuts.testing import run_job

    def test_a_swatch_is_painted() -> None:
        assert run_job(SwatchJob(), {"colour": "#ff8800"}).status == "completed"

Nothing here is a stand-in: the job is enqueued in a real Postgres, claimed by the real worker, and its asset
is stored in a folder. No setting of the environment or of `.env.local` reaches it, so that no test spends
money by accident. For pytest there are fixtures in `dreamcuts.testing.fixtures`.
"""

from __future__ import annotations

from dreamcuts.testing.conformance import ProviderCheck, check_provider, check_provider_async
from dreamcuts.testing.database import SERVER_VARIABLE, scratch_database
from dreamcuts.testing.run import JobRun, JobUnfinished, run_job, run_job_async
from dreamcuts.testing.settings import IsolatedSettings

__all__ = [
    "SERVER_VARIABLE",
    "IsolatedSettings",
    "JobRun",
    "JobUnfinished",
    "ProviderCheck",
    "check_provider",
    "check_provider_async",
    "run_job",
    "run_job_async",
    "scratch_database",
]
