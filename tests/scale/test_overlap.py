"""Shards are read ahead and written behind; what goes wrong with one stays with that one."""

from threading import Event

import pytest

from deepfits.scale.work import Parts, Shard, overlapped

SHARDS = [Shard(name=f"shard-{n:05d}", objects=1, made_from=str(n)) for n in range(4)]


def run(parts):
    return [
        (shard.name, outcome.reason, outcome.stops) for shard, outcome in overlapped(parts, SHARDS, print)
    ]


def test_the_next_is_read_and_the_last_is_written_while_one_is_worked_on():
    was_read, was_worked = [Event() for _ in SHARDS], [Event() for _ in SHARDS]
    written = {}

    def read(shard):
        was_read[int(shard.made_from)].set()
        return 10 * int(shard.made_from)

    def work(shard, held, advance):
        number = int(shard.made_from)
        if number + 1 < len(SHARDS):
            assert was_read[number + 1].wait(20), "the next shard is not read meanwhile"
        was_worked[number].set()
        return held + 1

    def write(shard, result):
        number = int(shard.made_from)
        if number + 1 < len(SHARDS):
            assert was_worked[number + 1].wait(20), "the next shard is not worked on meanwhile"
        written[shard.name] = result

    assert run(Parts(read, work, write)) == [(shard.name, "", False) for shard in SHARDS]
    assert list(written.items()) == [(shard.name, 10 * n + 1) for n, shard in enumerate(SHARDS)]


@pytest.mark.parametrize("where", ["read", "work", "write"])
def test_what_fails_is_named_and_the_others_are_done(where):
    written = []

    def failing(part, value):
        def act(shard, *others):
            if part == where and shard.made_from == "1":
                raise OSError(28, "No space left on device", "x") if where == "write" else ValueError("odd")
            if part == "write":
                written.append(shard.name)
            return value

        return act

    found = run(Parts(*(failing(part, 1) for part in ("read", "work", "write"))))
    assert [name for name, *_ in found] == [shard.name for shard in SHARDS]
    assert [bool(reason) for _, reason, _ in found] == [False, True, False, False]
    assert [stops for *_, stops in found] == [False, where == "write", False, False]
    assert written == [shard.name for shard in SHARDS if shard.made_from != "1"]


def test_nothing_more_is_written_when_nobody_listens_any_more():
    written = []
    parts = Parts(lambda shard: 0, lambda *_: 0, lambda shard, _: written.append(shard.name))
    outcomes = overlapped(parts, SHARDS, print)
    next(outcomes)
    outcomes.close()
    assert 1 <= len(written) <= 2
