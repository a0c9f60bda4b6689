"""One log line for each outcome."""

from __future__ import annotations

import logging

from dreamcuts.queue.models import Completed, Failed, Settled

log = logging.getLogger(__name__)


def log_outcome(settled: Settled, tag: str) -> None:
    """Say what became of a job; `tag` is the short name of its type."""
    outcome = settled.outcome
    level = logging.WARNING if settled.status is None or isinstance(outcome, Failed) else logging.INFO
    if not log.isEnabledFor(level):
        return
    job = outcome.job
    extra = {"tag": tag, "job_id": job.job_id}
    if settled.status is None:
        log.warning("Job %s was no longer ours; its outcome is dropped", job.job_id, extra=extra)
    elif isinstance(outcome, Completed):
        log.info("Job %s completed", job.job_id, extra=extra)
    elif isinstance(outcome, Failed):
        again = f"; again at {settled.next_retry_at:%H:%M:%S}" if settled.next_retry_at is not None else ""
        log.warning(
            "Job %s: attempt %d of %d: %s: %s%s",
            job.job_id,
            job.attempt,
            job.max_attempts,
            outcome.error_class.value,
            outcome.message,
            again,
            extra=extra,
        )
    else:
        log.info("Job %s is handed back", job.job_id, extra=extra)
