"""`make bench`: measure DreamCuts beside other Postgres queues, and write docs/benchmarks.md.

python -m benchmarks                    all queues that are installed, three rounds
python -m benchmarks --quick            one round, fewer jobs
python -m benchmarks --only dreamcuts,bare --docs /tmp/report
python -m benchmarks --depth            with a deep queue and a held snapshot too
python -m benchmarks --steady 60        with a minute in which a producer keeps the queue deep
python -m benchmarks --own              with graphs, enqueues, more and idle workers, and memory too
python -m benchmarks --render           write the report anew from the figures that are there
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.depth import deep_rates, steady_rates
from benchmarks.harness import Arena, BenchError, Server, bench_server, log_folder
from benchmarks.own import own_tables
from benchmarks.report import write_report
from benchmarks.results import Line, Results, percentile
from benchmarks.systems import DREAMCUTS, ENTRIES, Entry

BUSY_LOAD = 1.0
"""Load average of a minute, before anything was started, above which others are using the machine."""
DOCS = Path(__file__).parents[1] / "docs"


def main() -> int:
    """Measure and write; 1 if a queue failed."""
    options = _options()
    file = options.docs / "benchmarks" / "results.json"
    if options.render:
        write_report(Results.load(file), options.docs)
        return 0
    chosen = [entry for entry in ENTRIES if not options.only or entry.system.key in options.only.split(",")]
    busy = os.getloadavg()[0] > BUSY_LOAD
    if busy:
        print("The machine is busy; the report will say that its figures compare nothing.", file=sys.stderr)
    with bench_server(options.shared_buffers) as server, log_folder() as folder:
        results = Results(_about(server, options.rounds), busy=busy)
        arenas = _arenas(server, chosen, folder, results)
        running = [entry for entry in chosen if entry.system.key in arenas]
        results.lines = [_line(entry, options.scale) for entry in running]
        began = time.monotonic()
        for number in range(options.rounds):
            turn = number % max(1, len(running))
            for entry in running[turn:] + running[:turn]:
                line = next(line for line in results.lines if line.key == entry.key)
                _measure(arenas[entry.system.key], entry, line, options)
                print(f"[{time.monotonic() - began:4.0f} s] round {number + 1}: {_told(line)}", flush=True)
        if DREAMCUTS.key in arenas:
            results.depth = _deep(server, arenas[DREAMCUTS.key], options) or None
        if options.own and DREAMCUTS.key in arenas:
            results.own = own_tables(server, arenas[DREAMCUTS.key], options.scale)
        for arena in arenas.values():
            arena.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    results.save(file)
    write_report(results, options.docs)
    print(f"Written: {options.docs / 'benchmarks.md'}")
    return 1 if any(line.failure for line in results.lines) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one round, a fifth of the jobs")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scale", type=float, help="of the numbers of jobs, e.g. 0.5")
    parser.add_argument("--only", help="queues, by key: " + ", ".join(_keys()))
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the report goes")
    parser.add_argument("--shared-buffers", default="1GB")
    parser.add_argument("--depth", action="store_true", help="also drain a deep queue, plain and held")
    parser.add_argument("--own", action="store_true", help="also graphs, enqueues, more workers, memory")
    parser.add_argument("--depth-jobs", type=int, default=1_000_000)
    parser.add_argument("--depth-seconds", type=float, default=20.0)
    parser.add_argument(
        "--steady", type=float, default=0.0, metavar="SECONDS", help="also drain a queue that is kept deep"
    )
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.scale = options.scale or (0.2 if options.quick else 1.0)
    return options


def _keys() -> list[str]:
    return list(dict.fromkeys(entry.system.key for entry in ENTRIES))


def _arenas(server: Server, entries: list[Entry], folder: Path, results: Results) -> dict[str, Arena]:
    """A database for each queue that is installed and can make its schema."""
    arenas: dict[str, Arena] = {}
    for system in dict.fromkeys(entry.system for entry in entries):
        if system.version is None:
            results.skipped.append(f"{system.title} (not installed)")
            continue
        try:
            arenas[system.key] = Arena(server, system, folder)
        except BenchError as error:
            results.skipped.append(f"{system.title} ({error})")
    for text in results.skipped:
        print(f"Not measured: {text}", file=sys.stderr)
    return arenas


def _line(entry: Entry, scale: float) -> Line:
    version = entry.system.version or ""
    return Line(
        entry.key, entry.title, entry.system.key, version, entry.settings, max(20, int(entry.jobs * scale))
    )


def _measure(arena: Arena, entry: Entry, line: Line, options: argparse.Namespace) -> None:
    """One run of everything with one queue. A failure is noted, and the other queues go on."""
    try:
        for workers in (1, 2):
            arena.reset()
            line.add("bulk", arena.bulk(line.jobs))
            drained = arena.drain(entry, line.jobs, workers)
            line.add(f"drain_{workers}", drained.rate)
            if workers == 1:
                line.add("wal", drained.wal)
                line.add("commits", drained.commits)
                line.add("statements", drained.statements)
        line.add("single", arena.single(max(20, int(1000 * options.scale))))
        waits = arena.pickup(entry, max(20, int(150 * options.scale)))
        for share in (50, 95, 99):
            line.add(f"p{share}", percentile(waits, share / 100) * 1000)
    except BenchError as error:
        line.failure = str(error)


def _deep(server: Server, arena: Arena, options: argparse.Namespace) -> dict[str, object]:
    """How a worker fares on a deep queue, with and without a held snapshot, and on one that is kept deep."""
    entries = {entry.key: entry for entry in ENTRIES}
    found: dict[str, object] = {}
    if options.depth:
        tuned = entries["dreamcuts_tuned"]
        found = deep_rates(server, arena, tuned, options.depth_jobs, options.depth_seconds)
    if options.steady:
        found["steady"] = steady_rates(arena, entries["dreamcuts"], options.steady, options.scale)
    return found


def _about(server: Server, rounds: int) -> dict[str, str]:
    about = server.about
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory()}, {platform.system()}",
        "postgres": f"{about['version']}; fsync {about['fsync']}, synchronous_commit "
        f"{about['synchronous_commit']}, shared_buffers {about['shared_buffers']}, otherwise its defaults",
        "python": f"{platform.python_version()}",
        "load before": f"{os.getloadavg()[0]:.2f} (one minute)",
        "rounds": str(rounds),
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB"


def _told(line: Line) -> str:
    if line.failure:
        return f"{line.title}: {line.failure}"
    last = {measure: values[-1] for measure, values in line.runs.items()}
    return (
        f"{line.title}: drain {last['drain_1']:,.0f} / {last['drain_2']:,.0f} per s, "
        f"pickup {last['p50']:.2f} / {last['p95']:.2f} / {last['p99']:.2f} ms, "
        f"enqueue {last['bulk']:,.0f} / {last['single']:,.0f} per s, {last['wal']:,.0f} B WAL per job"
    )


if __name__ == "__main__":
    sys.exit(main())
