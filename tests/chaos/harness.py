"""Carries a chaos run out: workers, Postgres and the sandbox, the planned faults, and the reckoning."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from dreamcuts.db.migrate import migrate
from dreamcuts.sandbox import Sandbox
from tests.chaos.invariants import WITNESS, check, report
from tests.chaos.machine import DURABLE, CrashingPostgres, WorkerProcess
from tests.chaos.plan import RETRIES, FaultAt, Graph, Size, faults, graphs
from tests.support import Queue

SLOTS = "chaos_step:4,gen_image_falai:3"
HEAL_DEADLINE_S = 60.0
SKEW_S = (0.0, 3600.0, -86400.0, 0.0)
"""How far the clocks of the workers are off, by their number."""


WINDOW = """
    select coalesce(1000 * percentile_cont(0.5) within group (order by took), 0) as half,
        coalesce(1000 * percentile_cont(0.95) within group (order by took), 0) as most
    from (
        select extract(epoch from submitted_at - created_at)::float8 as took
        from dreamcut_provider_calls where submitted_at is not null
    ) calls
"""
"""How long the id of a request that may have left is not stored yet: the window that remains."""


class Chaos:
    """One run. `run()` returns whether every invariant held; `say` gets the report, line by line."""

    def __init__(self, seed: int, size: Size, folder: Path, say: Callable[[str], None] = print) -> None:
        self.seed = seed
        self.size = size
        self.folder = folder
        self.say = say
        self.done: Counter[str] = Counter()
        self._chance = random.Random(f"run {seed}")
        self._cancelled: set[str] = set()
        self._workers: list[WorkerProcess] = []
        self._started = 0
        self._timers: list[threading.Timer] = []
        self._busy = threading.Lock()  # Postgres is away or coming back

    def run(self) -> bool:
        """Insert the jobs while faults happen, heal, wait for the end of all jobs, look at the invariants."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            self._server = stack.enter_context(CrashingPostgres(prefer="system", settings=DURABLE))
            with psycopg.connect(self._server.dsn(), autocommit=True) as connection:
                connection.execute("create database chaos")
            self._dsn = self._server.dsn("chaos")
            migrate(self._dsn)
            with self._queue() as queue:
                queue.connection.execute(WITNESS.encode())
            self._sandbox = stack.enter_context(Sandbox.running(folder=self.folder / "sandbox"))
            self._sandbox.options.fal_queue_seconds = 0.05
            stack.callback(self._end_workers)
            self._workers = [self._start(number) for number in range(self.size.workers)]
            producer = threading.Thread(target=self._produce)
            producer.start()
            self._break_things(time.monotonic())
            producer.join()
            self._heal()
            self._wait_for_the_end()
            codes = [worker.stop() for worker in self._workers]
            return self._reckon(time.monotonic() - began, codes)

    # Jobs

    def _produce(self) -> None:
        """Insert the graphs, spread over the time of the faults; again when Postgres was away."""
        all_graphs = list(graphs(self.seed, self.size))
        pause = self.size.faults * self.size.every * 0.8 / len(all_graphs)
        self._jobs = sum(len(graph.jobs) for graph in all_graphs)
        for graph in all_graphs:
            while True:
                try:
                    with self._queue() as queue:
                        _insert(queue, graph)
                    break
                except psycopg.Error:
                    time.sleep(0.1)
            time.sleep(pause)

    # Faults

    def _break_things(self, began: float) -> None:
        for fault in faults(self.seed, self.size):
            while (left := began + fault.at - time.monotonic()) > 0:
                self._replace_the_dead()
                time.sleep(min(left, 0.05))
            with contextlib.suppress(psycopg.Error):  # the operator's own connection may be cut
                getattr(self, "_" + fault.kind)(fault)
                self.done[self._name(fault)] += 1

    def _name(self, fault: FaultAt) -> str:
        if fault.kind != "provider":
            return fault.kind
        return f"{fault.kind}_{fault.details['kind']}" + str(fault.details.get("status", ""))

    def _kill(self, fault: FaultAt) -> None:
        self._workers[fault.worker].send(signal.SIGKILL)

    def _terminate(self, fault: FaultAt) -> None:
        self._workers[fault.worker].send(signal.SIGTERM)

    def _stop_long(self, fault: FaultAt) -> None:
        worker = self._workers[fault.worker]
        worker.send(signal.SIGSTOP)
        self._later(fault.seconds, lambda: worker.send(signal.SIGCONT))

    _stop_short = _stop_long

    def _postgres_crash(self, fault: FaultAt) -> None:
        if self._busy.acquire(blocking=False):
            self._server.crash()
            self._later(fault.seconds, self._postgres_comes_back)

    def _postgres_comes_back(self) -> None:
        try:
            self._server.come_back()
        finally:
            self._busy.release()

    def _cut_all(self, fault: FaultAt) -> None:
        self._cut("true")

    def _cut_one(self, fault: FaultAt) -> None:
        self._cut("random() < 0.3")

    def _cut(self, condition: str) -> None:
        with self._queue() as queue:
            queue.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                f" where application_name = 'dreamcuts' and {condition}"
            )

    def _provider(self, fault: FaultAt) -> None:
        details = {"provider": "fal", **fault.details}
        self._sandbox.fail(details.pop("kind"), **details)

    def _operator_cancel(self, fault: FaultAt) -> None:
        with self._queue() as queue:
            chosen = queue.rows(
                "select id, job_id from dreamcut_jobs where status in ('pending', 'processing')"
                " and depends_on <> '{}' order by job_id limit 1 offset %s",
                self._chance.randrange(5),
            )
            # Noted first: the call may be committed although its answer is lost.
            self._cancelled |= {row["job_id"] for row in chosen}
            queue.cancel(*(row["id"] for row in chosen))

    def _operator_release(self, fault: FaultAt) -> None:
        with self._queue() as queue:
            held = queue.rows(
                "select id from dreamcut_jobs where status = 'processing' order by job_id limit 2"
            )
            queue.release(*(row["id"] for row in held))

    # Workers

    def _start(self, number: int) -> WorkerProcess:
        self._started += 1
        environment = {
            **self._sandbox.environment(),
            "DATABASE_URL": self._dsn,
            "LEASE_S": str(self.size.lease),
            "HEARTBEAT_S": str(self.size.lease / 4),
            "POLL_INTERVAL_S": "0.2",
            "PROVIDER_POLL_S": "0.1",
            "STORAGE_DIR": str(self.folder / "assets"),
            "STORAGE_BASE_URL": "http://127.0.0.1:9/assets",
            "CHAOS_CLOCK_OFFSET_S": str(SKEW_S[number % len(SKEW_S)]),
        }
        return WorkerProcess(SLOTS, environment, self.folder / f"worker-{number}.log")

    def _replace_the_dead(self) -> None:
        """As a service manager does: a worker that ended is started again, at most once a second."""
        for number, worker in enumerate(self._workers):
            if worker.is_over() and time.monotonic() - worker.began > 1.0:
                worker.kill()
                self._workers[number] = self._start(number)

    def _end_workers(self) -> None:
        for timer in self._timers:
            timer.join()
        for worker in self._workers:
            worker.kill()

    # The end

    def _heal(self) -> None:
        for timer in self._timers:
            timer.join()
        for worker in self._workers:
            worker.send(signal.SIGCONT)
        self._sandbox.faults.clear()

    def _wait_for_the_end(self) -> None:
        deadline = time.monotonic() + HEAL_DEADLINE_S
        with self._queue() as queue:
            while time.monotonic() < deadline:
                self._replace_the_dead()
                # An operator resumes a provider whose breaker our faults opened.
                queue.run("update dreamcut_providers set paused_until = null, probe_call = null")
                if not queue.value("select count(*) from dreamcut_jobs where completed_at is null"):
                    return
                time.sleep(0.1)
        for worker in self._workers:  # for the one who looks for the reason
            worker.send(signal.SIGUSR1)

    def _reckon(self, seconds: float, codes: list[int]) -> bool:
        with self._queue() as queue:
            verdicts = check(queue, self._sandbox, self._jobs, self._cancelled)
            statuses = queue.rows("select status, count(*) as n from dreamcut_jobs group by 1 order by 1")
            outcomes = queue.rows(
                "select coalesce(error_class, outcome) as what, count(*) as n from dreamcut_job_attempts"
                " group by 1 order by 1"
            )
            calls = queue.rows(
                "select status, count(*) as n from dreamcut_provider_calls group by 1 order by 1"
            )
            window = queue.row(WINDOW)
        logs = "".join(path.read_text("utf-8", "replace") for path in self.folder.glob("worker-*.log"))
        self.say(
            f"chaos seed {self.seed}: {self._jobs} jobs in {seconds:.0f} s, {self._started} worker processes"
        )
        self.say(f"  faults: {sum(self.done.values())}: {_listed(self.done)}")
        self.say("  jobs: " + ", ".join(f"{row['status']} {row['n']}" for row in statuses))
        self.say(
            "  attempts that did not succeed: " + ", ".join(f"{row['what']} {row['n']}" for row in outcomes)
        )
        self.say("  provider calls: " + ", ".join(f"{row['status']} {row['n']}" for row in calls))
        self.say(
            "  from a call's intent to its stored id: "
            f"{window['half']:.0f} ms in the middle, {window['most']:.0f} ms for 95 of 100"
        )
        self.say(f"  rescues: {logs.count('Rescued job')}, leases lost: {logs.count('lost its lease')}, "
                 f"late outcomes refused: {logs.count('its outcome is dropped')}, "
                 f"unanswered claims: {logs.count('whose claim was not answered')}")  # fmt: skip
        fine = report(verdicts, self.say)
        if "Traceback" in logs:
            self.say("  BAD a worker's log holds a traceback:\n" + logs[logs.index("Traceback") :][:3000])
            fine = False
        if any(code not in (0, -signal.SIGTERM) for code in codes):  # -15: it had not quite started
            self.say(f"  BAD workers ended with the exit codes {codes}")
            fine = False
        if not fine:
            self.say(f"  replay with: make chaos CHAOS_SEED={self.seed}")
        return fine

    @contextlib.contextmanager
    def _queue(self) -> Iterator[Queue]:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            yield Queue(connection)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.start()
        self._timers.append(timer)


def _insert(queue: Queue, graph: Graph) -> None:
    columns = "manifest_id, job_id, type, payload, depends_on, metadata, max_attempts, retry_policy"
    with queue.connection.transaction():
        manifest = queue.manifest()
        values = [
            (manifest, job.job_id, job.type, Jsonb(job.payload), job.depends_on, Jsonb(job.metadata),
             job.max_attempts, Jsonb(RETRIES))
            for job in graph.jobs
        ]  # fmt: skip
        if graph.bulk:
            places = ", ".join(["(" + ", ".join(["%s"] * 8) + ")"] * len(values))
            queue.run(f"insert into dreamcut_jobs ({columns}) values {places}", *sum(values, ()))
        else:
            for row in values:
                queue.run(
                    f"insert into dreamcut_jobs ({columns}) values (%s, %s, %s, %s, %s, %s, %s, %s)", *row
                )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def seed_of_environment() -> int:
    """CHAOS_SEED, or a new seed."""
    given: Any = os.environ.get("CHAOS_SEED")
    return int(given) if given else random.SystemRandom().randrange(1_000_000)
