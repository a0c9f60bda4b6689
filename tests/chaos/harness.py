"""Carries a chaos run out: workers, Postgres and the sandbox, the planned faults, and the reckoning."""

from __future__ import annotations

import contextlib
import os
import random
import re
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
from dreamcuts.sandbox import Sandbox, shotstack
from dreamcuts.sandbox.images import save
from tests.chaos.invariants import WITNESS, Verdict, check, report
from tests.chaos.ledger import Cause, NamedBilling
from tests.chaos.machine import DURABLE, CrashingPostgres, WorkerProcess, copy_sources
from tests.chaos.plan import QUEUE_S, RETRIES, FaultAt, Graph, Size, faults, graphs, manifest_json, marked
from tests.support import Queue, wait_until

SLOTS = "chaos_step:4,gen_image_falai:3,render_shotstack:1,gen_sound_effects_elevenlabs:1"
HEAL_DEADLINE_S = 60.0
"""Without faults, some job ends in that time."""
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

STANDING = (
    "select job_id, type, state, reason from dreamcut_job_states"
    " where completed_at is null and state <> 'blocked' order by state, job_id",
    "select pid, id, state, slots, round(extract(epoch from now() - heartbeat_at)::numeric, 1) as silent_s,"
    " round(extract(epoch from lease_expires_at - now())::numeric, 1) as lease_s from dreamcut_workers"
    " where state in ('live', 'draining')",
    "select pid, state, wait_event_type, wait_event, pg_blocking_pids(pid) as waits_for,"
    " round(extract(epoch from now() - xact_start)::numeric, 1) as in_transaction_s, left(query, 99) as query"
    " from pg_stat_activity where application_name = 'dreamcuts' and state <> 'idle'",
)
"""Jobs, workers and what the server does for them."""

PICKED_UP = re.compile(r"Picking up request (\S+) at")


class Chaos:
    """One run. `run()` returns whether every invariant held; `say` gets the report, line by line."""

    def __init__(self, seed: int, size: Size, folder: Path, say: Callable[[str], None] = print) -> None:
        self.seed = seed
        self.size = size
        self.folder = folder
        self.say = say
        self.done: Counter[str] = Counter()
        """The faults that acted; a signal to a process that was over, for one, did not."""
        self.causes: list[Cause] = []
        self._rules: dict[int, tuple[str, int]] = {}
        self._chance = random.Random(f"run {seed}")
        self._cancelled: set[str] = set()
        self._workers: list[WorkerProcess] = []
        self._started = 0
        self._timers: list[threading.Timer] = []
        self._busy = threading.Lock()  # Postgres is away or coming back

    def run(self) -> bool:
        """Insert the jobs while faults happen, heal, wait for the end of all jobs, look at the invariants."""
        self.say(f"chaos seed {self.seed}: {self.size.jobs} jobs, {self.size.workers} workers at a time")
        began = time.monotonic()
        self._sources = copy_sources(self.folder / "sources")
        with contextlib.ExitStack() as stack:
            self._server = stack.enter_context(CrashingPostgres(prefer="system", settings=DURABLE))
            with psycopg.connect(self._server.dsn(), autocommit=True) as connection:
                connection.execute("create database chaos")
            self._dsn = self._server.dsn("chaos")
            migrate(self._dsn)
            with self._queue() as queue:
                queue.connection.execute(WITNESS.encode())
            # Renders are polled ten times a second here, and no customer does that.
            stack.enter_context(_edit_limit(1_000_000))
            self._sandbox = stack.enter_context(Sandbox.running(folder=self.folder / "sandbox"))
            self._billing = self._sandbox.state.billing = NamedBilling()
            save("a lantern by the river", 1, 64, 64, self._sandbox.state.files / "lantern.png")
            stack.callback(self._end_workers)
            self._workers = [self._start(number) for number in range(self.size.workers)]
            producer = threading.Thread(target=self._produce)
            producer.start()
            self._break_things(time.monotonic())
            producer.join()
            self._heal()
            self._wait_for_the_end()
            codes = [self._stop(worker) for worker in self._workers]
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
                        _insert(queue, graph, f"{self._sandbox.url}/files/lantern.png")
                    break
                except psycopg.Error:
                    time.sleep(0.1)
            time.sleep(pause)

    # Faults

    def _break_things(self, began: float) -> None:
        queue_times = random.Random(f"queue times {self.seed}")
        for fault in faults(self.seed, self.size):
            while (left := began + fault.at - time.monotonic()) > 0:
                self._replace_the_dead()
                self._sandbox.options.fal_queue_seconds = queue_times.uniform(*QUEUE_S)
                time.sleep(min(left, 0.05))
            with contextlib.suppress(psycopg.Error):  # the operator's own connection may be cut
                acted = getattr(self, "_" + fault.kind)(fault)
                self.done[fault.kind] += bool(acted)

    def _signal(self, fault: FaultAt, number: signal.Signals) -> bool:
        worker = self._workers[fault.worker]
        if worker.is_over():
            return False
        self.causes.append(Cause(fault.kind, time.time(), time.time() + fault.seconds, pid=worker.pid))
        worker.send(number)
        return True

    def _kill(self, fault: FaultAt) -> bool:
        return self._signal(fault, signal.SIGKILL)

    def _terminate(self, fault: FaultAt) -> bool:
        return self._signal(fault, signal.SIGTERM)

    def _stop_long(self, fault: FaultAt) -> bool:
        worker = self._workers[fault.worker]
        if worker.is_stopped() or not self._signal(fault, signal.SIGSTOP):
            return False
        self._later(fault.seconds, lambda: worker.send(signal.SIGCONT))
        return True

    _stop_short = _stop_long

    def _postgres_crash(self, fault: FaultAt) -> bool:
        if not self._busy.acquire(blocking=False):
            return False
        at = time.time()
        self._server.crash()
        self._later(fault.seconds, lambda: self._postgres_comes_back(at))
        return True

    def _postgres_comes_back(self, at: float) -> None:
        try:
            self._server.come_back()
        finally:
            self.causes.append(Cause("postgres_crash", at, time.time() + self.size.lease))
            self._busy.release()

    def _cut_all(self, fault: FaultAt) -> bool:
        return self._cut(fault, 1.0)

    def _cut_one(self, fault: FaultAt) -> bool:
        return self._cut(fault, 0.3)

    def _cut(self, fault: FaultAt, share: float) -> bool:
        with self._queue() as queue:
            found = queue.rows(
                "select pid from pg_stat_activity where application_name = 'dreamcuts' order by backend_start"
            )
            pids = [row["pid"] for row in found if self._chance.random() < share]
            self.causes.append(Cause(fault.kind, time.time(), time.time() + 1))
            cut = queue.value(
                "select count(*) filter (where pg_terminate_backend(pid)) from unnest(%s::int[]) as pid", pids
            )
        return bool(cut)

    def _provider(self, fault: FaultAt) -> bool:
        """Only lies in wait: whether a request met it is counted at the end."""
        details = {"provider": "fal", **fault.details}
        name = f"{details['provider']}_{details['kind']}" + str(details.get("status", ""))
        rule = self._sandbox.fail(details.pop("kind"), **details)
        self._rules[rule.id] = name, rule.times or 1
        return False

    def _count_the_provider_s_faults(self) -> None:
        left = {rule.id: rule.times or 0 for rule in self._sandbox.faults.rules()}
        self._sandbox.faults.clear()
        for number, (name, times) in self._rules.items():
            self.done[name] += left.get(number, 0) < times
        for provider in ("fal", "shotstack", "elevenlabs"):
            for entry in self._sandbox.requests.entries(provider, "POST"):
                if entry.status is None or entry.status >= 500:
                    kind = "request dropped" if entry.status is None else f"request answered {entry.status}"
                    self.causes.append(Cause(kind, entry.at, provider=provider))

    def _operator_cancel(self, fault: FaultAt) -> bool:
        with self._queue() as queue:
            chosen = queue.rows(
                "select id, job_id from dreamcut_jobs where status in ('pending', 'processing')"
                " and depends_on <> '{}' order by job_id limit 1 offset %s",
                self._chance.randrange(5),
            )
            # Noted first: the call may be committed although its answer is lost.
            self._cancelled |= {row["job_id"] for row in chosen}
            self.causes += [Cause(fault.kind, time.time(), job_id=row["job_id"]) for row in chosen]
            return bool(queue.cancel(*(row["id"] for row in chosen)))

    def _operator_release(self, fault: FaultAt) -> bool:
        with self._queue() as queue:
            held = queue.rows(
                "select id, job_id from dreamcut_jobs where status = 'processing' order by job_id limit 2"
            )
            self.causes += [Cause(fault.kind, time.time(), job_id=row["job_id"]) for row in held]
            return bool(queue.release(*(row["id"] for row in held)))

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
            "CHAOS_CLOCK_OFFSET_S": str(SKEW_S[number % len(SKEW_S)]),
        }
        log = self.folder / f"worker-{number}.log"
        return WorkerProcess(SLOTS, environment, log, sources=self._sources)

    def _stop(self, worker: WorkerProcess) -> int:
        self.causes.append(Cause("terminate", time.time(), pid=worker.pid))
        return worker.stop()

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
        self._count_the_provider_s_faults()

    def _wait_for_the_end(self) -> None:
        """Until all jobs have ended, or none has for a while: a busy machine is slow, and goes on."""
        last, deadline = -1, 0.0
        with self._queue() as queue:
            while True:
                self._replace_the_dead()
                # An operator resumes a provider whose breaker our faults opened.
                queue.run("update dreamcut_providers set paused_until = null, probe_call = null")
                left = queue.value("select count(*) from dreamcut_jobs where completed_at is null")
                if not left:
                    return
                if left != last:
                    last, deadline = left, time.monotonic() + HEAL_DEADLINE_S
                elif time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            self._tell_why(queue)

    def _tell_why(self, queue: Queue) -> None:
        """For the one who looks for the reason: how all stands while the workers still run."""
        self.say(f"  {HEAL_DEADLINE_S:.0f} s without faults, in which no job has ended; these have not:")
        for sql in STANDING:
            for row in queue.rows(sql):
                self.say("    " + ", ".join(f"{name} {value}" for name, value in row.items()))
        for worker in self._workers:
            self.say(f"    process {worker.pid} {'is over' if worker.is_over() else 'runs'}: {worker.log}")
            worker.send(signal.SIGUSR1)  # its tasks, into its log

    def _reckon(self, seconds: float, codes: list[int]) -> bool:
        # A request that nobody waits for any more is billed at its end all the same.
        wait_until(lambda: not self._sandbox.state._tasks, "the requests that still run in the sandbox")
        bills = self._billing.paid()
        with self._queue() as queue:
            verdicts, judgement = check(queue, bills, self.causes, self._jobs, self._cancelled)
            statuses = queue.rows("select status, count(*) as n from dreamcut_jobs group by 1 order by 1")
            outcomes = queue.rows(
                "select coalesce(error_class, outcome) as what, count(*) as n from dreamcut_job_attempts"
                " group by 1 order by 1"
            )
            calls = queue.rows(
                "select provider || ' ' || status as status, count(*) as n from dreamcut_provider_calls"
                " group by 1 order by 1"
            )
            window = queue.row(WINDOW)
        logs = "".join(path.read_text("utf-8", "replace") for path in self.folder.glob("worker-*.log"))
        picked_up = len(set(PICKED_UP.findall(logs)))
        verdicts.append(
            Verdict(
                "open calls are picked up",
                picked_up,
                ["no fault met an open call: nothing is shown"]
                if self.size.picks_up and not picked_up
                else [],
            )
        )
        self.say(f"  {self._jobs} jobs in {seconds:.0f} s, {self._started} worker processes")
        self.say(f"  faults that acted: {sum(self.done.values())}: {_listed(self.done)}")
        self.say("  jobs: " + ", ".join(f"{row['status']} {row['n']}" for row in statuses))
        self.say(
            "  attempts that did not succeed: " + ", ".join(f"{row['what']} {row['n']}" for row in outcomes)
        )
        self.say("  provider calls: " + ", ".join(f"{row['status']} {row['n']}" for row in calls))
        self.say("  bills: " + _listed(Counter(bill.provider for bill in bills)))
        self.say(
            f"  calls picked up: {picked_up}; lost: {sum(judgement.explained.values())}"
            f" ({_listed(judgement.explained) or 'none'})"
        )
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


def _insert(queue: Queue, graph: Graph, picture: str) -> None:
    columns = "manifest_id, job_id, type, payload, depends_on, metadata, max_attempts, retry_policy"
    with queue.connection.transaction():
        # The query names the job, so that a bill for its edit can be told from all others.
        film = manifest_json(f"{picture}?{marked(graph.film)}") if graph.film else {}
        manifest = queue.manifest(manifest_json=Jsonb(film))
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
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)


@contextlib.contextmanager
def _edit_limit(a_minute: int) -> Iterator[None]:
    """How many requests a minute Shotstack takes of a key, for sandboxes that start in the block."""
    before = dict(shotstack.EDIT_LIMITS)
    shotstack.EDIT_LIMITS.update(dict.fromkeys(before, a_minute))
    try:
        yield
    finally:
        shotstack.EDIT_LIMITS.update(before)


def seed_of_environment() -> int:
    """CHAOS_SEED, or a new seed."""
    given: Any = os.environ.get("CHAOS_SEED")
    return int(given) if given else random.SystemRandom().randrange(1_000_000)
