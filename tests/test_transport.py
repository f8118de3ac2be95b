"""Calls to model servers: retries, time-outs, broken connections, and what is cancelled."""

import logging
import random
import re
import signal
import threading
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest
from raw_server import HANG, Asked, RawServer, raw, reply, wait_for

from harness.engine.endpoint.call import Call
from harness.engine.endpoint.http import client, patience, retries
from harness.engine.endpoint.http.address import roots
from harness.engine.endpoint.http.dispatcher import Dispatcher
from harness.engine.endpoint.http.loop_thread import LoopThread
from harness.engine.endpoint.http.replica import Replica
from harness.engine.endpoint.transport import Transport
from harness.errors import EndpointError, UsageError

KEY = 'sk-very/"secret"+key=='


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST", 0.01)
    monkeypatch.setattr(retries, "_LONGEST", 0.1)
    monkeypatch.setattr(patience, "_NOTED", 0.3)


@pytest.fixture(autouse=True)
def transports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All transports of a test are closed at its end, and leave no thread."""
    made: list[Transport] = []
    original = Transport.__init__

    def remembered(self: Transport, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Transport, "__init__", remembered)
    yield
    for transport in made:
        transport.close()
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "model server"])


def ask(number: int, group: object = None) -> Call:
    return Call("v1/completions", {"number": number}, group)


def numbered(count: int, group: object = None) -> Iterator[tuple[int, Call]]:
    return ((number, ask(number, group)) for number in range(count))


def echo(asked: Asked) -> bytes:
    return reply({"got": asked.body})


def test_a_call_and_its_reply() -> None:
    with RawServer(echo) as server:
        transport = Transport([f"{server.url}/v1/"], key=KEY)
        assert transport.call(ask(3)) == {"got": {"number": 3}}
        assert transport.call(Call("version")) == {"got": None}
    post, get = server.asked
    assert (post.path, get.path) == ("/v1/completions", "/version")
    assert post.headers["authorization"] == get.headers["authorization"] == f"Bearer {KEY}"
    assert post.headers["host"] == server.url.removeprefix("http://")
    assert post.headers["content-type"] == "application/json"


def test_replies_come_as_they_complete() -> None:
    first = threading.Event()

    def answer(asked: Asked) -> bytes:
        if asked.body["number"] == 0:
            first.wait(5)
        return echo(asked)

    with RawServer(answer) as server:
        order = []
        for key, value in Transport([server.url], concurrency=3).send(numbered(20)):
            assert value == {"got": {"number": key}}
            order.append(key)
            if len(order) == 19:
                first.set()
    assert order[-1] == 0
    assert sorted(order) == list(range(20))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_servers_are_asked_again(status: int) -> None:
    def answer(asked: Asked) -> bytes:
        busy = asked.number in (1, 2, 4) and not asked.probe
        return reply({"error": "busy"}, status) if busy else echo(asked)

    with RawServer(answer) as server:
        found = dict(Transport([server.url], concurrency=2).send(numbered(9)))
    assert found == {number: {"got": {"number": number}} for number in range(9)}


def test_a_storm_of_429_is_longer_than_patience_but_not_silent() -> None:
    calm = time.monotonic() + 2.5

    def answer(asked: Asked) -> bytes:
        stormy = time.monotonic() < calm and asked.number % 9 != 8
        return reply({"error": {"message": "slow down"}}, 429) if stormy else echo(asked)

    with RawServer(answer) as server:
        transport = Transport([server.url], concurrency=8, patience=2.0)
        assert len(list(transport.send(numbered(100)))) == 100
    assert time.monotonic() > calm


def test_a_note_says_that_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    def answer(asked: Asked) -> bytes:
        stormy = not caplog.records
        return reply({"error": {"message": "slow down"}}, 429) if stormy else echo(asked)

    with RawServer(answer) as server:
        assert len(list(Transport([server.url], patience=60).send(numbered(9)))) == 9
    name = f"the model server at {server.url}"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{name} answers with HTTP 429: slow down; trying again for up to 60 s",
        f"{name} answers again",
    ]


@pytest.mark.parametrize("form", ["1", "date"])
def test_retry_after_is_honoured(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    when: list[float] = []

    def answer(asked: Asked) -> bytes:
        when.append(time.monotonic())
        later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
        wait = later if form == "date" else form
        return reply({}, 429, Retry_After=wait) if len(when) == 1 else echo(asked)

    with RawServer(answer) as server:
        Transport([server.url]).call(ask(0))
    assert 0.95 < when[1] - when[0] < 10


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("-3", 0), ("soon", None), ("", None), ("Sat, 01 Jan 2000 00:00:00 GMT", 0)],
)
def test_retry_after_in_other_forms(header: str, seconds: float | None) -> None:
    assert retries.seconds_of(header) == seconds


def test_pauses_grow_and_differ() -> None:
    for failures, most in [(1, 0.01), (2, 0.02), (3, 0.04), (4, 0.08), (5, 0.1), (10**6, 0.1)]:
        pauses = {retries.pause(failures, None) for _ in range(50)}
        assert len(pauses) > 40
        assert most / 2 <= min(pauses) <= max(pauses) <= most
    assert 3 <= retries.pause(1, 3.0) <= 3.01


def test_calls_that_fail_together_are_one_failure() -> None:
    """One outage with many calls in flight does not lengthen the pause that follows it."""
    replica = Replica(0, client.Client("http://127.0.0.1:1", connections=1, key=None))
    begun = time.monotonic()
    for _ in range(8):
        replica.failed(retries.Failure("was cut"), begun)
    assert replica.failures == 1
    replica.failed(retries.Failure("was cut"), time.monotonic())
    assert replica.failures == 2


def test_a_wait_longer_than_patience_is_an_error() -> None:
    with RawServer(lambda asked: reply({}, 429, Retry_After="3600")) as server:
        begun = time.monotonic()
        with pytest.raises(
            EndpointError, match=r"HTTP 429: \{\} \(to be asked again after 3600 s\)"
        ):
            Transport([server.url], patience=600).call(ask(0))
    assert time.monotonic() - begun < 60


HTML = "<!DOCTYPE html>\n<html><head><title>Sign\n in &amp; go</title></head></html>"


@pytest.mark.parametrize(
    ("answer", "message", "status"),
    [
        (reply({"error": {"message": "no\nmodel", "code": 404}}, 404), "HTTP 404: no model", 404),
        (reply({"error": "Only no echo"}, 400), "HTTP 400: Only no echo", 400),
        (reply({"detail": "Not Found"}, 404), "HTTP 404: Not Found", 404),
        (reply({"detail": [{"msg": "a"}, {"msg": "b"}]}, 422), "HTTP 422: a; b", 422),
        (reply({"object": "error", "message": "too long"}, 400), "HTTP 400: too long", 400),
        (raw("", 405), "HTTP 405: an empty reply", 405),
        (raw(HTML, 403), "an HTML page titled 'Sign in & go'; name the environment", 403),
        (raw("", 307, Location="http://other/v1"), "it redirects to http://other/v1", 307),
        (raw(HTML), "answers v1/completions with an HTML page titled 'Sign in & go'", 200),
        (raw("hello"), "answers v1/completions with hello instead of JSON", 200),
    ],
)  # fmt: skip
def test_refusals_are_one_line(answer: bytes, message: str, status: int) -> None:
    with RawServer(lambda asked: answer) as server:
        with pytest.raises(EndpointError) as caught:
            list(Transport([server.url]).send([("mine", ask(0))]))
        assert len(server.asked) == 1, "not repeated"
    text = str(caught.value)
    assert message in text
    assert text.startswith(server.url)
    assert "\n" not in text
    assert (caught.value.status, caught.value.key) == (status, "mine")


def test_a_hang_is_repeated_until_patience_is_over() -> None:
    def answer(asked: Asked) -> bytes:
        return HANG if asked.number in hangs else echo(asked)

    hangs: Any = {1, 2}
    with RawServer(answer) as server:
        transport = Transport([server.url], timeout=0.5, patience=4.0)
        transport.call(ask(0))
        assert transport.call(ask(1)) == {"got": {"number": 1}}
        hangs = range(100)
        begun = time.monotonic()
        with pytest.raises(
            EndpointError, match=r"does not answer within 0.5 s; no reply for \d+ s"
        ):
            transport.call(ask(2))
        assert 3 < time.monotonic() - begun < 60
        wait_for(lambda: server.hung_up >= 3)


CUTS = {
    "in the body": reply({"got": "x" * 1000})[:-500],
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before any byte": b"\r\n"[:0] + b"H",
    "without a length": b'HTTP/1.1 200 OK\r\n\r\n{"got": {"numb',
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=list(CUTS))
def test_cut_connections(cut: bytes) -> None:
    def answer(asked: Asked) -> bytes:
        return cut if asked.number in (1, 3, 5) and not asked.probe else echo(asked)

    with RawServer(answer) as server:
        transport = Transport([server.url], concurrency=4)
        transport.call(ask(0))  # the first call of all is not repeated
        found = dict(transport.send(numbered(12)))
    assert found == {number: {"got": {"number": number}} for number in range(12)}


def test_always_cut() -> None:
    def answer(asked: Asked) -> bytes:
        return echo(asked) if asked.number == 0 or asked.probe else CUTS["in the body"]

    with RawServer(answer) as server:
        transport = Transport([server.url], patience=0.8)
        transport.call(ask(0))
        with pytest.raises(EndpointError, match="cut the connection before its reply was complete"):
            list(transport.send(numbered(3)))


def test_a_call_that_fails_alone_ends_the_run() -> None:
    def answer(asked: Asked) -> bytes:
        return reply("boom", 500) if asked.body == {"number": 7} else echo(asked)

    alone = "boom, after 8 attempts of the same call of v1/completions, while it answers others"
    with RawServer(answer) as server, pytest.raises(EndpointError, match=alone) as caught:
        deque(Transport([server.url], concurrency=2).send(numbered(10**6)), 0)
    assert (caught.value.key, caught.value.status) == (7, 500)
    assert server.calls.count({"number": 7}) == 8


def test_a_call_that_always_hangs_ends_the_run() -> None:
    def answer(asked: Asked) -> bytes:
        time.sleep(0.005)
        return HANG if asked.body == {"number": 3} else echo(asked)

    with RawServer(answer) as server:
        transport = Transport([server.url], concurrency=2, timeout=1.0)
        late = "does not answer within 1 s, after 3 attempts of the same call"
        with pytest.raises(EndpointError, match=late) as caught:
            deque(transport.send(numbered(10**6)), 0)
    assert caught.value.key == 3
    assert server.calls.count({"number": 3}) == 3


def test_nobody_at_the_address() -> None:
    with RawServer(echo) as server:
        pass
    transport = Transport([server.url])
    begun = time.monotonic()
    for patient in (True, False):
        with pytest.raises(EndpointError, match=r"connection refused.*; is a model server running"):
            transport.call(ask(0), patient=patient)
    with pytest.raises(EndpointError, match="is not known to the name service"):
        Transport(["http://no-such-host.invalid:8000"]).call(ask(0))
    assert time.monotonic() - begun < 60  # far from patience


def test_a_call_that_is_not_patient() -> None:
    with RawServer(lambda a: reply("?", 500) if a.path == "/five" else echo(a)) as server:
        transport = Transport([server.url])
        transport.call(ask(0))
        with pytest.raises(EndpointError, match="HTTP 500") as caught:
            transport.call(Call("five"), patient=False)
        assert caught.value.status == 500
        assert len(server.asked) == 4
    with pytest.raises(EndpointError, match="connection refused"):
        transport.call(ask(1), patient=False)


def test_a_body_that_is_no_json_is_a_defect() -> None:
    with RawServer(echo) as server:
        transport = Transport([server.url])
        with pytest.raises(TypeError):
            transport.call(Call("x", {"set": {1}}))
        with pytest.raises(ValueError, match="not JSON compliant"):
            transport.call(Call("x", {"nan": float("nan")}))
        assert transport.call(ask(1)) == {"got": {"number": 1}}


def test_closing_the_iterator_cancels_what_is_in_flight() -> None:
    with RawServer(lambda asked: echo(asked) if asked.number == 0 else HANG) as server:
        transport = Transport([server.url], concurrency=4)
        replies = transport.send(numbered(20))
        next(replies)
        wait_for(lambda: len(server.asked) == 5)
        replies.close()
        wait_for(lambda: server.hung_up == 4)
        time.sleep(0.05)
        assert len(server.asked) == 5, "those that waited are dropped"


def test_an_interrupt_cancels_what_is_in_flight() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_twice() -> None:
        for in_flight in (4, 5):
            wait_for(lambda: len(server.asked) == in_flight)  # noqa: B023
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with RawServer(lambda asked: HANG) as server:
            transport = Transport([server.url], concurrency=4)
            thread = threading.Thread(target=interrupt_twice)
            thread.start()
            for ask_all in (
                lambda: list(transport.send(numbered(9))),
                lambda: transport.call(ask(0)),
            ):
                with pytest.raises(KeyboardInterrupt):
                    ask_all()
            wait_for(lambda: server.hung_up == 5)
            thread.join()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_neither_calls_nor_replies_pile_up() -> None:
    big = reply({"text": "x" * 100_000})
    pulled: list[int] = []

    def calls() -> Iterator[tuple[int, Call]]:
        for pair in numbered(100):
            pulled.append(pair[0])
            yield pair

    with RawServer(lambda asked: big) as server:
        transport = Transport([server.url], concurrency=4)
        tracemalloc.start()
        for done, _ in enumerate(transport.send(calls())):
            assert len(pulled) - done <= 8
            if done == 30:
                early = tracemalloc.get_traced_memory()[0]
        late = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert late - early < 1e6, "69 replies of 100 kB"


def test_closed() -> None:
    with RawServer(lambda asked: HANG) as server:
        transport = Transport([server.url])

        def close() -> None:
            wait_for(lambda: server.asked)
            transport.close()

        thread = threading.Thread(target=close)
        thread.start()
        for _ in range(2):
            with pytest.raises(EndpointError, match="has been closed"):
                transport.call(ask(0))
        thread.join()
        wait_for(lambda: server.hung_up == 1)


def test_no_call_enters_a_loop_that_ends() -> None:
    """asyncio accepts functions until its loop is closed, and drops those that come too late."""
    refused: list[bool] = []

    class Ending(LoopThread):
        async def _main(self) -> None:
            await super()._main()
            with pytest.raises(EndpointError, match="has been closed"):
                self.submit([])
            refused.append(True)

    replicas: list[Replica] = []
    Ending(Dispatcher(replicas, print, concurrency=1, timeout=1.0, patience=1.0)).close()
    assert refused


class Cluster:
    """Replicas that note who answered what, and can be killed and started again."""

    def __init__(self, count: int) -> None:
        self.seconds = [0.005] * count
        self.names = [f"model {index}" for index in range(count)]
        self.servers = [RawServer(self._answer(index)) for index in range(count)]
        self.urls = [server.url for server in self.servers]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        for server in self.servers:
            server.stop()

    def kill(self, index: int) -> None:
        self.servers[index].stop()

    def start(self, index: int) -> None:
        self.servers[index] = RawServer(self._answer(index), self.servers[index].port)

    def _answer(self, index: int) -> Callable[[Asked], bytes]:
        def answer(asked: Asked) -> bytes:
            time.sleep(self.seconds[index])
            return reply({"by": index, "model": self.names[index]})

        return answer


def answered_by(replies: Iterable[tuple[int, Any]]) -> dict[int, int]:
    return {key: value["by"] for key, value in replies}


def test_the_free_replica_gets_the_work() -> None:
    with Cluster(2) as cluster:
        cluster.seconds = [0.2, 0.003]
        by = answered_by(Transport(cluster.urls, concurrency=2).send(numbered(60)))
    shares = Counter(by.values())
    assert shares[0] + shares[1] == 60
    assert shares[1] > 2 * shares[0] > 0


def test_a_group_stays_on_one_replica() -> None:
    calls = [(number, ask(number, number % 7)) for number in range(210)]
    with Cluster(3) as cluster:
        by = answered_by(Transport(cluster.urls, concurrency=8).send(calls))
    homes = [{by[number] for number in range(group, 210, 7)} for group in range(7)]
    assert [len(home) for home in homes] == [1] * 7
    assert set.union(*homes) == {0, 1, 2}


def test_the_calls_of_a_group_are_sent_in_their_order() -> None:
    with Cluster(2) as cluster:
        list(Transport(cluster.urls, concurrency=1).send(numbered(40, "one group")))
        sent = [[body["number"] for body in server.calls] for server in cluster.servers]
    assert sorted(sent[0] + sent[1]) == list(range(40))
    assert all(numbers == sorted(numbers) for numbers in sent)


def test_a_group_moves_where_there_is_nothing_to_do() -> None:
    with Cluster(2) as cluster:
        cluster.seconds = [0.02, 0.02]
        by = answered_by(Transport(cluster.urls, concurrency=4).send(numbered(100, "one group")))
    assert min(Counter(by.values()).values()) > 20


def test_a_replica_that_dies_costs_nothing_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Cluster(3) as cluster:
        transport = Transport(cluster.urls, concurrency=4, patience=30)
        for index in range(3):
            transport.call(ask(0), replica=index)
        by: dict[int, int] = {}

        def calls() -> Iterator[tuple[int, Call]]:
            """Until the replica is back, however long a busy machine takes."""
            for number in range(100_000):
                if number > 600 and list(by.values())[-1] == 1:
                    return
                yield number, ask(number, number % 10)

        for number, value in transport.send(calls()):
            by[number] = value["by"]
            if len(by) == 150:
                cluster.kill(1)
            if len(by) == 300:
                assert 1 not in [by[key] for key in list(by)[200:]]
                cluster.start(1)
        assert sorted(by) == list(range(len(by)))
        assert [*by.values()][150:].count(1) > 0, "it gets calls again"
        assert cluster.servers[1].asked[0].probe, "it is asked first whether it is back"


def test_all_replicas_dead() -> None:
    with Cluster(2) as cluster:
        transport = Transport(cluster.urls, patience=0.7)
        replies = transport.send((number, ask(number)) for number in range(10**6))
        for _ in range(100):
            next(replies)
        for index in range(2):
            cluster.kill(index)
        begun = time.monotonic()
        with pytest.raises(EndpointError) as caught:
            list(replies)
    assert 0.5 < time.monotonic() - begun < 60
    assert all(url in str(caught.value) for url in cluster.urls)
    assert "connection refused" in str(caught.value)
    assert caught.value.key is not None


def test_a_replica_that_was_dead_from_the_start() -> None:
    checked: list[int] = []
    with Cluster(2) as cluster:
        cluster.kill(0)
        transport = Transport(cluster.urls, concurrency=2, patience=20)
        transport.on_return = checked.append
        replies = transport.send(numbered(10**6))
        assert {value["by"] for _, value in islice(replies, 50)} == {1}
        cluster.start(0)
        assert any(value["by"] == 0 for _, value in islice(replies, 20_000))
        replies.close()
        for index in range(2):
            cluster.kill(index)
        with pytest.raises(EndpointError) as caught:
            list(Transport(cluster.urls).send(numbered(9)))
    assert checked[0] == 0, "it may have another model than that of the self-test"
    assert all(
        f"{url} does not answer (connection refused)" in str(caught.value) for url in cluster.urls
    )


def test_one_replica_is_asked_alone() -> None:
    with Cluster(3) as cluster:
        transport = Transport(cluster.urls, patience=0.5)
        assert [transport.call(ask(0), replica=index)["by"] for index in (2, 0, 1)] == [2, 0, 1]
        cluster.kill(2)
        with pytest.raises(EndpointError, match="connection refused"):
            transport.call(ask(0), replica=2)
        assert transport.call(ask(0))["by"] in (0, 1)


@pytest.mark.parametrize("noted", [False, True])
def test_the_model_is_checked_after_a_restart(
    noted: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is mentioned only if it lasts."""
    monkeypatch.setattr(patience, "_NOTED", 0.1 if noted else 1000)

    def restart() -> None:
        if noted:
            wait_for(lambda: "trying again" in caplog.text)
        cluster.start(0)

    def check(replica: int) -> None:
        assert replica == 0
        answer = transport.call(Call("check", {"number": "check"}))
        if answer["model"] != "model 0":
            raise EndpointError("another model")

    def run(total: int) -> list[int]:
        keys = []
        for key, _ in transport.send(numbered(total)):
            keys.append(key)
            if len(keys) == 20:
                cluster.kill(0)
                threading.Timer(0.1, restart).start()
        return keys

    with Cluster(1) as cluster:
        transport = Transport(cluster.urls, concurrency=4, patience=20)
        transport.on_return = check
        assert sorted(run(100)) == list(range(100))
        first, second, *others = cluster.servers[0].asked
        assert first.probe
        assert second.body == {"number": "check"}
        assert {"number": "check"} not in [asked.body for asked in others]
        assert len(others) >= 76
        waited = "connection refused); trying again for up to 20 s" in caplog.text
        assert waited == ("answers again" in caplog.text) == noted

        cluster.names = ["model 1"]
        before = len(cluster.servers[0].asked)
        caplog.clear()
        with pytest.raises(EndpointError, match="another model"):
            run(100)
        assert len(cluster.servers[0].asked) == 2, "nothing is sent to the other model"
        assert before > 2


def test_a_check_that_gets_no_reply_is_repeated() -> None:
    checks = 0

    def answer(asked: Asked) -> bytes:
        if asked.number == 1:
            return b"H"
        return b"H" if asked.path == "/check" and checks < 3 else echo(asked)

    def check(replica: int) -> None:
        nonlocal checks
        checks += 1
        transport.call(Call("check", {}))

    with RawServer(answer) as server:
        transport = Transport([server.url], concurrency=2, patience=20)
        transport.on_return = check
        transport.call(ask(0))
        assert len(list(transport.send(numbered(30)))) == 30
    assert checks == 3


def test_closing_during_a_check() -> None:
    def check(replica: int) -> None:
        transport.call(Call("check", {}))

    with RawServer(
        lambda a: HANG if a.path == "/check" else b"H" if a.number == 1 else echo(a)
    ) as s:
        transport = Transport([s.url])
        transport.on_return = check
        transport.call(ask(0))
        threading.Timer(0.3, transport.close).start()
        with pytest.raises(EndpointError, match="has been closed"):
            transport.call(ask(1))


@pytest.mark.parametrize("seed", range(3))
def test_every_call_is_answered_once_whatever_goes_wrong(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATTEMPTS", "LATE_ATTEMPTS"):  # a busy machine is late, too
        monkeypatch.setattr(client, name, 1000)
    chance = random.Random(seed)
    wrong = [reply({}, 429), reply({}, 500), reply({}, 503), *CUTS.values(), HANG]

    def answer(asked: Asked) -> bytes:
        time.sleep(0.001 * chance.random())
        return chance.choice(wrong) if asked.number and chance.random() < 0.2 else echo(asked)

    servers = [RawServer(answer) for _ in range(2)]
    transport = Transport([s.url for s in servers], concurrency=8, timeout=0.3, patience=60)
    for index in range(2):
        transport.call(ask(0), replica=index)
    found: list[int] = []
    for key, value in transport.send((n, ask(n, n // 20)) for n in range(300)):
        assert value == {"got": {"number": key}}
        found.append(key)
        if len(found) in (100, 200):
            dead = len(found) // 100 - 1
            servers[dead].stop()
            servers[dead] = RawServer(answer, servers[dead].port)
    for server in servers:
        server.stop()
    assert sorted(found) == list(range(300))


def test_many_threads() -> None:
    with Cluster(2) as cluster:
        transport = Transport(cluster.urls, concurrency=4)
        found: list[dict[int, int]] = []
        threads = [
            threading.Thread(target=lambda: found.append(answered_by(transport.send(numbered(50)))))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [sorted(by) for by in found] == [list(range(50))] * 5


LEAKS = [
    reply({"error": {"message": f"bad key {KEY}"}}, 401),
    raw(f"<html><title>{KEY}</title>"),
    raw(f"you sent Bearer {KEY}"),
    raw("", 302, Location=f"http://x/?key={KEY}"),
    reply({"odd": {"key": KEY}}, 400),
    reply({"error": f"busy {KEY}"}, 429),
    reply({"error": f"gone {KEY}"}, 503),
    f"HTTP/1.1 2{KEY} OK\r\n\r\n".encode(),
]


@pytest.mark.parametrize("answer", LEAKS)
def test_the_key_is_in_no_message(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RawServer(lambda asked: answer) as server:
        transport = Transport([server.url], key=KEY, patience=0.6)
        with pytest.raises(EndpointError) as caught:
            transport.call(ask(0))
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    ours = [record for record in caplog.records if record.name.startswith("harness")]
    assert KEY in server.asked[0].headers["authorization"]
    assert KEY not in " ".join([repr(transport), *map(repr, chain), *map(str, ours)])
    assert not re.search("Authorization", caplog.text)


@pytest.mark.parametrize("key", ["a\nb", " a", "ключ", ""])
def test_keys_that_no_header_can_hold(key: str) -> None:
    with pytest.raises(EndpointError, match="printable ASCII") as caught:
        Transport(["http://x"], key=key)
    assert len(key) < 3 or key not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://Host/v1/#org/name@step100", "http://host"),
        ("https://host/a/b/v1/completions", "https://host/a/b"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_roots(given: str, wanted: str) -> None:
    assert roots([given]) == roots([wanted]) == (wanted,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ftp://host", "is not the address of a server"),
        ("http://", "is not the address of a server"),
        ("http://host:port", "has no valid host and port"),
        ("http://a b/", "is not the address of a server"),
        ("http://me:secret@host/v1", "has a user, a password or a query in it"),
        ("http://host/v1?api_key=secret", "has a user, a password or a query in it"),
    ],
)
def test_addresses_that_are_refused(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Transport([given])
    assert "secret" not in str(caught.value)


def test_an_address_given_twice() -> None:
    with pytest.raises(UsageError, match="http://host/v1 is given twice"):
        Transport(["http://host", "http://host/v1"])
