"""Clients written for JPaxos, over real sockets."""

from __future__ import annotations

import pytest

from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient
from tests.cluster.jpaxos import NACK, OK, RECONNECT, JPaxosClient, get, put


def address(cluster: LocalCluster, number: int) -> str:
    found = cluster.config.replica(number).jpaxos
    assert found is not None
    return found


def elsewhere(cluster: LocalCluster, number: int, client_id: int) -> JPaxosClient:
    """The same client at another replica."""
    return JPaxosClient(address(cluster, number), client_id)


def test_get_and_put_through_each_replica(cluster: LocalCluster) -> None:
    clients = [JPaxosClient(address(cluster, n)) for n in cluster.numbers]
    assert len({client.client_id for client in clients}) == 3
    previous = b""
    for number, client in enumerate(clients):
        value = f"from {number}".encode()
        assert client.request(1, put(b"key", value)) == previous
        assert client.request(2, get(b"key")) == value
        previous = value
    assert clients[0].request(3, get(b"nothing")) == b""
    with KeyValueClient(cluster.addresses) as kv:
        assert kv.get(b"key") == b"from 2"
    for client in clients:
        client.close()


def test_the_same_sequence_elsewhere_gets_the_same_reply(cluster: LocalCluster) -> None:
    first = JPaxosClient(address(cluster, 0))
    assert first.request(1, put(b"k", b"one")) == b""
    assert first.request(2, put(b"k", b"two")) == b"one"
    first.close()
    for number in (1, 2, 0):
        again = elsewhere(cluster, number, first.client_id)
        # Run again, it would answer "two".
        assert again.request(2, put(b"k", b"two")) == b"one"
        again.close()
    last = elsewhere(cluster, 1, first.client_id)
    assert last.request(3, get(b"k")) == b"two"
    last.close()


def test_a_client_survives_the_crash_of_its_replica(cluster: LocalCluster) -> None:
    client = JPaxosClient(address(cluster, cluster.leader()))
    for sequence in range(1, 6):
        victim = cluster.leader()
        client.close()
        client = elsewhere(cluster, victim, client.client_id)
        client.send(sequence, put(b"n", str(sequence).encode()))
        cluster.kill(victim)
        others = [n for n in cluster.numbers if n != victim]
        value = _insist(cluster, others, client.client_id, sequence)
        assert value == (str(sequence - 1).encode() if sequence > 1 else b"")
        cluster.start([victim])
        cluster.wait_in_step(victim)


def _insist(cluster: LocalCluster, numbers: list[int], client_id: int, sequence: int) -> bytes:
    """Repeat a sequence at these replicas until it is answered, as the originals' clients do."""
    turn = iter(range(10_000))

    def attempt() -> bytes | None:
        again = elsewhere(cluster, numbers[next(turn) % len(numbers)], client_id)
        try:
            again.send(sequence, put(b"n", str(sequence).encode()))
            result, data = again.reply()
            if result == RECONNECT:
                return None
            assert result == OK, data
            return data[16:]
        except (ConnectionError, TimeoutError):
            return None
        finally:
            again.close()

    return cluster.wait(attempt, f"the reply to sequence {sequence}")


def test_alive_is_answered_at_once(cluster: LocalCluster) -> None:
    client = JPaxosClient(address(cluster, 1))
    client.send(1, b"", kind=1)
    result, data = client.reply()
    assert result == OK
    assert data == b"" or len(data) == 16
    assert client.request(1, put(b"a", b"b")) == b""
    client.close()


def test_an_unknown_operation_is_refused_and_the_client_goes_on(cluster: LocalCluster) -> None:
    client = JPaxosClient(address(cluster, 1))
    client.send(1, b"?what")
    result, text = client.reply()
    assert result == NACK
    assert text.decode()
    assert client.request(2, get(b"x")) == b""
    client.close()


def test_an_unknown_client_id_is_refused(cluster: LocalCluster) -> None:
    client = JPaxosClient(address(cluster, 0), 0x7FFF_0000_1234)
    with_result = None
    try:
        client.send(1, put(b"a", b"b"))
        with_result = client.reply()[0]
    except ConnectionError:
        pass
    assert with_result in (None, NACK)
    with KeyValueClient(cluster.addresses) as kv:
        assert kv.get(b"a") is None
    client.close()


def test_an_oversized_request_closes_only_that_connection(cluster: LocalCluster) -> None:
    other = JPaxosClient(address(cluster, 2))
    client = JPaxosClient(address(cluster, 2))
    try:
        client.send(1, b"P" + bytes(2 << 20))
        result, _ = client.reply()
        assert result == NACK
    except OSError:
        pass
    assert other.request(1, put(b"still", b"here")) == b""
    with pytest.raises((OSError, AssertionError)):
        client.request(2, get(b"still"))
    other.close()
    client.close()
