"""`dreamcuts bench`: what a server and this machine can do."""

from __future__ import annotations

from dataclasses import asdict

import click

from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json


@click.command()
@click.option("--server", metavar="URL", help="A database of the server to measure. Default: DATABASE_URL.")
@click.option("--jobs", type=click.IntRange(100, 10_000_000), default=10_000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option(
    "--concurrency",
    "-c",
    type=click.IntRange(1, 10_000),
    help="Jobs at a time of each of the seven types. Default: as the built-in types.",
)
@json_option
def bench(server: str | None, jobs: int, workers: int, concurrency: int | None, as_json: bool) -> None:
    """Measure a server: enqueue and drain jobs that do nothing, and see how soon an idle worker starts one.

    All happens in a scratch database on that server, dropped at the end; its user must be allowed to make
    one. No job of yours is touched, but the load is real: think twice before you measure production. The
    log written per job is the whole server's, so it is right only where nobody else writes.

    \b
        dreamcuts bench
        dreamcuts bench --jobs 100000 --workers 2 --concurrency 100
    """
    from dreamcuts.bench import Plan, measure
    from dreamcuts.bench.noop import DEFAULT_SLOTS

    slots = dict.fromkeys(DEFAULT_SLOTS, concurrency) if concurrency else DEFAULT_SLOTS
    found = measure(server or database_url(), Plan(jobs=jobs, workers=workers, slots=slots))
    if as_json:
        print_json(asdict(found))
        return
    lines = [
        ("enqueue, 2,000 in a statement", f"{found.bulk_rate:,.0f}", "jobs/s"),
        ("enqueue, one at a time", f"{found.single_rate:,.0f}", "jobs/s"),
        (f"drain, {workers} worker{'s' if workers > 1 else ''}", f"{found.drain_rate:,.0f}", "jobs/s"),
        ("write-ahead log in the drain", f"{found.wal_bytes:,.0f}", "bytes/job"),
        ("enqueue to start, median", f"{found.pickup_p50_ms:.2f}", "ms"),
        ("enqueue to start, 95 %", f"{found.pickup_p95_ms:.2f}", "ms"),
        ("enqueue to start, 99 %", f"{found.pickup_p99_ms:.2f}", "ms"),
    ]
    rows = [{"what": what, "value": value, "unit": unit} for what, value, unit in lines]
    tables.console().print(tables.rows_table(rows, {"what": "MEASURE", "value": "VALUE", "unit": "UNIT"}))
    server_settings = ", ".join(
        f"{name} {value}" for name, value in found.server.items() if name != "version"
    )
    click.echo(f"Postgres {found.server['version']}: {server_settings}")
