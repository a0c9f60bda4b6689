"""docs/benchmarks.md and its charts, from the figures of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Line, Results
from benchmarks.svg import Group, bar_chart, figure

COLUMNS = (
    # measure, heading, whether more is better
    ("drain_1", "1 worker", True),
    ("drain_2", "2 workers", True),
    ("wal", "WAL, bytes/job", False),
    ("commits", "commits/job", False),
    ("statements", "statements/job", False),
)
PICKUP = (("p50", "p50", False), ("p95", "p95", False), ("p99", "p99", False))
ENQUEUE = (("bulk", "2,000 in a call", True), ("single", "one at a time", True))

BUSY = (
    "**The machine was busy with other work when this was measured: the figures compare nothing. "
    "Run `make bench` again when it is idle.**"
)
HOW = """
- The queue, its worker and the enqueuer share the machine. All connect over TCP to 127.0.0.1. Every Python
  queue runs on uvloop, except DreamCuts with default settings, which runs as `dreamcuts work` does.
- The queues take turns: a round measures each of them once, and the next round begins with another one. The
  figure shown is the median of the rounds; [results.json](benchmarks/results.json) has every run.
- A job does nothing, so that the figures are the queue's own. Logs are off.
- Drain: the queue is filled, vacuumed and checkpointed, then the workers start. Jobs per second from the
  first job's start until the database shows no unfinished job, so completions that a queue buffers are paid.
- WAL, commits and statements are those of the drain with one worker; start-up and full-page images are in
  them, which weighs more where fewer jobs were drained. Statements are top-level, without the harness' own.
- Pickup: one worker, idle; a job every 20 ms from another process; from just before the call that enqueues
  it to the first line of its handler.
- Enqueue: through each queue's own call for it. DreamCuts' producers insert rows, so that is what is
  measured: one INSERT for many, or for each job, through asyncpg. `Client.enqueue` has a table of its own.
- A queue that keeps many claimed jobs in memory (Graphile Worker's local queue, PgQueuer's batch) is measured
  with that setting: it is its best documented one for throughput.
- The bare limit has no leases, no attempts, no fencing, no results and no history. It is there to show what
  the machine can do.
"""


def write_report(results: Results, docs: Path) -> None:
    """Write `benchmarks.md` and `benchmarks/*.svg` into the folder `docs`."""
    charts = docs / "benchmarks"
    charts.mkdir(parents=True, exist_ok=True)
    for name, text in _charts(results).items():
        (charts / f"{name}.svg").write_text(text, "utf-8")
    (docs / "benchmarks.md").write_text(_markdown(results), "utf-8")


def _charts(results: Results) -> dict[str, str]:
    subtitle = _where(results)

    def chart(title: str, measures: Sequence[str], series: Sequence[str], lines: Iterable[Line]) -> str:
        groups = [
            Group(line.title, [line.median(measure) for measure in measures], line.kind)
            for line in lines
            if any(line.median(measure) is not None for measure in measures)
        ]
        return bar_chart(title, subtitle, series, groups)

    lines, systems = results.lines, _once_a_system(results.lines)
    shares = ["p50", "p95", "p99"]
    workers = ["1 worker", "2 workers"]
    return {
        "drain": chart("Drain, jobs/s (more is better)", ["drain_1", "drain_2"], workers, lines),
        "pickup": chart("Enqueue to start on an idle worker, ms (less is better)", shares, shares, lines),
        "bulk": chart("Enqueue 2,000 in a call, jobs/s (more is better)", ["bulk"], [""], systems),
        "single": chart("Enqueue one at a time, jobs/s (more is better)", ["single"], [""], systems),
        "wal": chart("Write-ahead log per drained job, bytes (less is better)", ["wal"], [""], lines),
    }


def _where(results: Results) -> str:
    about = results.about
    return f"{about['machine']}, PostgreSQL {about['postgres'].split(' ')[0]}, fsync on, {about['date'][:10]}"


def _markdown(results: Results) -> str:
    about = results.about
    parts = [
        "# Benchmarks",
        "Written by `make bench`. DreamCuts beside other job queues in Postgres, on the same machine, server "
        "and work, in one run. Bold is the best of the queues; the bare limit is not one.",
        BUSY if results.busy else "",
        _about(about),
        "## Drain",
        "Jobs per second, and what each job cost the server.",
        _table(results.lines, COLUMNS),
        "![Drain](benchmarks/drain.svg)\n\n![Write-ahead log](benchmarks/wal.svg)",
        "## Pickup",
        "Milliseconds from the enqueue to the start of the handler, on an idle worker.",
        _table(results.lines, PICKUP),
        "![Pickup](benchmarks/pickup.svg)",
        "## Enqueue",
        "Jobs per second, one connection.",
        _table(_once_a_system(results.lines), ENQUEUE),
        "![Enqueue in bulk](benchmarks/bulk.svg)\n\n![Enqueue one at a time](benchmarks/single.svg)",
        *_depth(results),
        *_own(results),
        "## Where DreamCuts stands",
        _standing(results),
        "## Settings",
        _settings(results),
        "## Method",
        HOW.strip(),
        "## Repeat it",
        "`make bench` needs some minutes and an idle machine; `make bench QUICK=1` is a smaller run. "
        "`make bench ARGS='--depth --steady 60 --own'` adds a deep queue, a held snapshot, a queue that is "
        "kept deep, and DreamCuts alone (graphs, more workers, idle ones, memory). Graphile Worker and "
        "pg-boss are measured where node and npm are installed. `dreamcuts bench` measures a server of your "
        "own.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(about: dict[str, str]) -> str:
    return "\n".join(f"- {name.capitalize()}: {text}" for name, text in about.items())


def _table(lines: Iterable[Line], columns: Sequence[tuple[str, str, bool]]) -> str:
    lines = list(lines)
    rows = [
        "| queue | " + " | ".join(heading for _, heading, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    best = {measure: _best(lines, measure, more) for measure, _, more in columns}
    for line in lines:
        cells = []
        for measure, _, _ in columns:
            value = line.median(measure)
            is_best = value is not None and value == best[measure] and line.kind != "limit"
            cells.append(f"**{figure(value)}**" if is_best else figure(value))
        rows.append(f"| {line.title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _best(lines: Iterable[Line], measure: str, more: bool) -> float | None:
    values = [value for line in lines if line.kind != "limit" and (value := line.median(measure)) is not None]
    return (max if more else min)(values) if values else None


def _once_a_system(lines: Iterable[Line]) -> list[Line]:
    """Enqueueing does not depend on the worker's settings: the runs of a system's lines together."""
    merged: dict[str, Line] = {}
    for line in lines:
        title = line.title.split(",")[0]
        one = merged.setdefault(
            line.system,
            Line(line.key, title, line.system, line.version, line.settings, line.jobs),
        )
        for measure, _, _ in ENQUEUE:
            for value in line.runs.get(measure, []):
                one.add(measure, value)
    return list(merged.values())


def _standing(results: Results) -> str:
    """Plain sentences on each measure: the best DreamCuts figure against the best peer's and the limit."""
    sentences = []
    for measure, words, more in (
        ("drain_1", "Drain, one worker", True),
        ("drain_2", "Drain, two workers", True),
        ("wal", "WAL per job", False),
        ("commits", "Commits per job", False),
        ("statements", "Statements per job", False),
        ("p50", "Pickup, p50", False),
        ("p95", "Pickup, p95", False),
        ("p99", "Pickup, p99", False),
        ("bulk", "Enqueue in bulk", True),
        ("single", "Enqueue one at a time", True),
    ):
        choose: Callable[..., Line] = max if more else min
        known = _once_a_system(results.lines) if measure in ("bulk", "single") else results.lines
        lines = [line for line in known if line.median(measure) is not None]
        own = [line for line in lines if line.kind == "own"]
        peers = [line for line in lines if line.kind == "peer"]
        if not own or not peers:
            continue
        ours = choose(own, key=lambda line: line.median(measure) or 0)
        theirs = choose(peers, key=lambda line: line.median(measure) or 0)
        our, their = ours.median(measure) or 0.0, theirs.median(measure) or 0.0
        leads = our > their if more else our < their
        limit = next((line.median(measure) for line in lines if line.kind == "limit"), None)
        sentences.append(
            f"| {words} | {figure(our)} | {figure(their)} ({theirs.title}) | {figure(limit)} | "
            f"{'DreamCuts leads' if leads else f'{theirs.title} leads'} |"
        )
    head = ["| measure | DreamCuts | best peer | bare limit | |", "|---|---:|---:|---:|---|"]
    return "\n".join([*head, *sentences]) if sentences else "No peer was measured."


def _settings(results: Results) -> str:
    rows = ["| queue | version | settings | jobs drained a run |", "|---|---|---|---:|"]
    rows += [f"| {line.title} | {line.version} | {line.settings} | {line.jobs:,} |" for line in results.lines]
    notes = [f"Not measured: {text}." for text in results.skipped]
    notes += [f"{line.title} failed: {line.failure}." for line in results.lines if line.failure]
    return "\n".join(rows) + ("\n\n" + "\n".join(notes) if notes else "")


def _own(results: Results) -> list[str]:
    parts = []
    for table in results.own:
        rows = ["| " + " | ".join(table.head) + " |", "|---|" + "---:|" * (len(table.head) - 1)]
        rows += ["| " + " | ".join(row) + " |" for row in table.rows]
        parts += [f"## {table.title}", table.text, "\n".join(rows)]
    return parts


def _depth(results: Results) -> list[str]:
    depth = results.depth
    if not depth:
        return []
    parts = ["## Depth"]
    if "rates" in depth:
        parts += [_deep_text(depth), _windows(depth["rates"], "window")]
    if "steady" in depth:
        steady = depth["steady"]
        parts += [_steady_text(steady), _windows({"steady": steady["rates"]}, "tenth")]
    return parts


def _windows(series: dict[str, list[float]], name: str) -> str:
    windows = len(next(iter(series.values()), []))
    rows = [
        "| queue | " + " | ".join(f"{name} {number + 1}" for number in range(windows)) + " |",
        "|---|" + "---:|" * windows,
    ]
    for title, rates in series.items():
        rows.append(f"| {title} | " + " | ".join(figure(rate) for rate in rates) + " |")
    return "\n".join(rows)


def _deep_text(depth: dict[str, Any]) -> str:
    return (
        f"Starts per second of one DreamCuts worker (tuned) in windows of {depth['window']:g} s, with "
        f"{depth['jobs']:,} ready jobs of seven types; `around` adds a tenth as many delayed and blocked "
        "jobs and as many finished ones; `held` keeps another session's snapshot open all the while."
    )


def _steady_text(steady: dict[str, Any]) -> str:
    return (
        f"Steady: for {steady['seconds']:g} s a producer keeps about {steady['ready']:,} ready jobs of seven "
        "types in the queue (an INSERT of 2,000 whenever fewer are ready) while one DreamCuts worker "
        "(default settings) drains it; finished jobs stay, and Postgres vacuums as it sees fit. "
        f"Starts per second in each tenth of the time; the fewest ready jobs were {steady['least']:,}."
    )
