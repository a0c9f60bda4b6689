"""The races of a graph of a thousand jobs: what a cancel or a retry takes along is all of it, and nothing
else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from uuid import UUID

import pytest

from tests.sql.interleaving import FIRST_LOCK_AWAY, TAKE_THE_LOCKS_AWAY, Steps, race, race_in, throw_away
from tests.support import Queue

pytestmark = pytest.mark.usefixtures("patient")
Another = Callable[[], Queue]
both_ways = pytest.mark.parametrize("locked", [True, False], ids=["locked", "without the locks"])

SCENES = """
    insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)
    select %s, 'scene' || n, 'work', array['script'] from generate_series(1, 998) n
"""
TREE = """
    insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)
    select %s, 'n' || n, 'work', case when n > 1 then array['n' || n / 2] else '{}' end
    from generate_series(1000, 1, -1) n
"""


@pytest.fixture
def film(queue: Queue) -> UUID:
    """A script, 998 scenes that wait for it, and a render that waits for all of them."""
    manifest = queue.manifest()
    queue.run(SCENES, manifest)
    queue.add(manifest, "render", [f"scene{n}" for n in range(1, 999)])
    queue.add(manifest, "script")
    return manifest


@pytest.fixture
def tree(queue: Queue) -> UUID:
    """1,000 jobs, ten deep: each waits for the one above."""
    manifest = queue.manifest()
    queue.run(TREE, manifest)
    return manifest


def job(queue: Queue, job_id: str) -> UUID:
    return UUID(str(queue.value("select id from dreamcut_jobs where job_id = %s", job_id)))


def counted(queue: Queue, manifest: UUID) -> Counter[str]:
    return Counter(queue.states(manifest).values())


@pytest.mark.parametrize("order", ["cancel first", "completion first"])
def test_a_scene_is_cancelled_while_the_script_completes(
    queue: Queue, another: Another, database: str, film: UUID, order: str
) -> None:
    """The render goes with its scene, the other 997 run. No companion: both write the scene's own row, and
    settling begins anew after waiting."""
    worker = queue.worker()
    held = queue.claim_one(worker)
    scene = job(queue, "scene500")
    steps: Steps = {
        "cancel first": lambda side: side.cancel(scene),
        "completion first": lambda side: side.complete(worker, held),
    }
    assert race_in(order, steps, database, another())[0]
    assert counted(queue, film) == {"completed": 1, "ready": 997, "cancelled": 2}
    assert queue.states(film)["render"] == queue.states(film)["scene500"] == "cancelled"


@pytest.mark.parametrize("order", ["cancel first", "completion first"])
def test_the_root_is_cancelled_while_it_completes(
    queue: Queue, another: Another, database: str, tree: UUID, order: str
) -> None:
    """All of the tree, or nothing of it."""
    worker = queue.worker()
    held = queue.claim_one(worker)
    steps: Steps = {
        "cancel first": lambda side: side.cancel(held.id),
        "completion first": lambda side: side.complete(worker, held),
    }
    assert race_in(order, steps, database, another()) == (True, [])
    if order == "cancel first":
        assert counted(queue, tree) == {"cancelled": 1000}
        assert queue.of_manifest(tree)["status"] == "failed"
    else:
        assert counted(queue, tree) == {"completed": 1, "ready": 2, "blocked": 997}


@pytest.mark.parametrize("order", ["cancel first", "retry first"])
@both_ways
def test_one_scene_is_retried_while_another_is_cancelled(
    queue: Queue, another: Another, database: str, film: UUID, order: str, locked: bool
) -> None:
    """Without the locks the render comes back with the one, and waits for the other for ever."""
    one, two = job(queue, "scene1"), job(queue, "scene998")
    queue.cancel(one)
    steps: Steps = {
        "cancel first": lambda side: side.cancel(two),
        "retry first": lambda side: side.retry(one),
    }
    if not locked:
        queue.run(FIRST_LOCK_AWAY if order == "cancel first" else TAKE_THE_LOCKS_AWAY)
    race_in(order, steps, database, another())
    states = queue.states(film)
    assert (states["scene1"], states["scene998"]) == ("blocked", "cancelled")
    assert states["render"] == ("cancelled" if locked else "blocked")
    if not locked:
        throw_away(queue)


@pytest.mark.parametrize("order", ["cancel first", "retry first"])
@both_ways
def test_the_root_is_retried_while_a_branch_is_cancelled(
    queue: Queue, another: Another, database: str, tree: UUID, order: str, locked: bool
) -> None:
    """n2 has half of the tree behind it. It was cancelled with the root, so a cancel before the retry means
    nothing, and the retry brings all; one after it takes n2's half away. Without the first lock that one does
    nothing either."""
    root, branch = job(queue, "n1"), job(queue, "n2")
    queue.cancel(root)
    if not locked:
        queue.run(FIRST_LOCK_AWAY)
    behind = queue.value(
        "with recursive behind as (select 2 as n union all select child from behind"
        " cross join lateral (values (2 * n), (2 * n + 1)) as next (child) where child <= 1000)"
        " select count(*) from behind"
    )
    first = another()
    if order == "cancel first":
        assert first.cancel(branch) == []
        assert len(race(database, first, lambda other: other.retry(root))[1]) == 1000
        assert counted(queue, tree) == {"ready": 1, "blocked": 999}
        return
    assert len(first.retry(root)) == 1000
    assert race(database, first, lambda other: other.cancel(branch)) == (locked, [branch] if locked else [])
    lost = behind if locked else 0
    assert counted(queue, tree) == Counter({"ready": 1, "blocked": 999 - lost, "cancelled": lost}) - Counter()


@pytest.mark.parametrize("order", ["failure first", "insert first"])
@both_ways
def test_a_branch_is_inserted_while_the_root_fails(
    queue: Queue, another: Another, database: str, tree: UUID, order: str, locked: bool
) -> None:
    """A hundred more jobs behind the last one, ten deep in the cascade: they go along, or wait for ever."""
    worker = queue.worker()
    held = queue.claim_one(worker)
    if not locked:
        queue.run(TAKE_THE_LOCKS_AWAY)
    insert = """
        insert into dreamcut_jobs (manifest_id, job_id, type, depends_on)
        select %s, 'more' || n, 'work', array['n' || 1001 - n] from generate_series(1, 100) n
    """
    steps: Steps = {
        "failure first": lambda side: side.fail(worker, held, error_class="invalid_request"),
        "insert first": lambda side: side.run(insert, tree),
    }
    race_in(order, steps, database, another())
    gone = 1099 if locked else 999
    assert (
        counted(queue, tree) == Counter({"failed": 1, "cancelled": gone, "blocked": 1099 - gone}) - Counter()
    )
    if not locked:
        throw_away(queue)
