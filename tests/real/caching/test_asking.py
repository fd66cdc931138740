"""Questions to real servers, and to those that cannot be a cache: each is refused with what to do, in bounded time."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest
import trustme
from cache_place import bulk, listener, scripted, valkey
from harness import free_port, wait_for

from headway.caching import contents
from headway.caching.asking import Asking, Refused, Unanswered, check_server
from headway.caching.place import Place, place_of_url

P = "hw:t:hot:"
WAIT_S = 30.0  # for servers that answer
HEAD = struct.Struct(">BBQII8sB")


def at(port: int, more: str = "") -> Place:
    return place_of_url(f"redis://{more}127.0.0.1:{port}")


def test_a_server_that_can_be_one_is_let_pass(tmp_path: Path) -> None:
    with valkey(tmp_path) as port:
        check_server(at(port), P, WAIT_S)
        check_server(place_of_url(f"redis://127.0.0.1:{port}/3"), P, WAIT_S)


def test_who_asks_without_the_right_password_is_told_so_and_not_which(tmp_path: Path) -> None:
    with valkey(tmp_path, "requirepass right-one") as port:
        check_server(at(port, ":right-one@"), P, WAIT_S)
        for who in ("", ":wrong-one@"):
            with pytest.raises(Refused, match="does not let us in") as refused:
                check_server(at(port, who), P, WAIT_S)
            assert "user and password" in refused.value.hint
            assert "wrong-one" not in refused.value.message


def test_an_access_list_that_keeps_clients_from_changes_is_refused(tmp_path: Path) -> None:
    with valkey(tmp_path, "user app on >pw ~* &* +@all -client|tracking") as port:
        with pytest.raises(Refused, match="refuses CLIENT TRACKING") as refused:
            check_server(at(port, "app:pw@"), P, WAIT_S)
        assert "access list" in refused.value.hint


def test_a_copy_of_another_server_takes_no_writes(tmp_path: Path) -> None:
    with (
        valkey(tmp_path, f"replicaof 127.0.0.1 {free_port()}", "replica-serve-stale-data yes") as port,
        pytest.raises(Refused, match="is a copy of another server"),
    ):
        check_server(at(port), P, WAIT_S)


def test_a_part_of_a_cluster_is_refused(tmp_path: Path) -> None:
    # Its second port is the first plus 10,000 otherwise, which may be none.
    lines = ("cluster-enabled yes", f"cluster-port {free_port()}")
    with valkey(tmp_path, *lines) as port, pytest.raises(Refused, match="is part of a Cluster"):
        check_server(at(port), P, WAIT_S)


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ({b"HELLO": b"-ERR unknown command 'HELLO'\r\n"}, "does not speak RESP3"),
        ({b"HELLO": b"-NOPROTO unsupported protocol version\r\n"}, "does not speak RESP3"),
        ({b"INFO": bulk(b"redis_version:6.0.16\r\nrole:master\r\n")}, "is Redis 6.0.16, too old"),
    ],
)
def test_old_servers_are_refused_with_what_to_do(replies: dict[bytes, bytes], told: str) -> None:
    with listener(scripted(replies)) as port, pytest.raises(Refused, match=told) as refused:
        check_server(at(port), P, WAIT_S)
    assert "Redis from 6.2" in refused.value.hint


def test_nobody_is_waited_for_longer_than_asked(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="Connection refused"):
        check_server(at(free_port()), P, WAIT_S)
    began_s = time.monotonic()
    with listener(lambda sock: time.sleep(60)) as port, pytest.raises(Unanswered, match="it is silent"):
        check_server(at(port), P, timeout_s=0.2)
    assert time.monotonic() - began_s < 30
    with listener(lambda sock: None) as port, pytest.raises(Unanswered):
        check_server(at(port), P, WAIT_S)
    with pytest.raises(Unanswered, match="No such file"):
        check_server(Place(path=str(tmp_path / "nowhere.sock")), P, WAIT_S)


def test_sentinels_are_asked_until_one_knows(tmp_path: Path) -> None:
    with valkey(tmp_path) as port:
        watch = f"sentinel monitor mymaster 127.0.0.1 {port} 1"
        with valkey(tmp_path, watch, is_sentinel=True) as watcher:
            hosts = (("127.0.0.1", free_port()), ("127.0.0.1", watcher))
            check_server(Place(host="mymaster", master="mymaster", sentinels=hosts), P, WAIT_S)
            with pytest.raises(Unanswered, match="no Sentinel knows where other is"):
                check_server(Place(host="other", master="other", sentinels=hosts), P, WAIT_S)


def test_tls_believes_whom_the_machine_believes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    talk = scripted({b"INFO": bulk(b"server_name:valkey\r\nvalkey_version:9.1.2\r\nrole:master\r\n")})

    def secretly(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secret:
            talk(secret)

    with listener(secretly) as port:
        place = place_of_url(f"rediss://localhost:{port}")
        with pytest.raises(Unanswered, match="certificate verify failed"):
            check_server(place, P, WAIT_S)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        check_server(place, P, WAIT_S)


# -- contents ---------------------------------------------------------------------------------------------------------


def put(asking: Asking, key: str, generation: bytes, *tags: bytes, age_s: float = 5, ttl_s: float = 300) -> None:
    """A value as a process of an app stores it."""
    stored_ms = int((time.time() - age_s) * 1000)
    blob = HEAD.pack(1, 0, stored_ms, int(ttl_s * 1000), 12, generation, len(tags)) + b"".join(tags) + b"payload"
    asking.ask("SET", f"{P}v:{key}", blob, "PX", 600_000)


def test_values_are_seen_with_what_holds_of_them(tmp_path: Path) -> None:
    with valkey(tmp_path) as port, Asking(at(port), WAIT_S) as asking:
        now, before, tag = os.urandom(8), os.urandom(8), os.urandom(8)
        asking.ask("SET", f"{P}g", now)
        asking.ask("SET", f"{P}t:product:7", tag)
        put(asking, "shop.product(7)", now, tag)
        put(asking, "shop.product(8)", now, os.urandom(8), age_s=400)
        put(asking, "shop.product(9)", before)
        asking.ask("SET", f"{P}v:shop.product(10)", b"of another age", "PX", 600_000)
        asking.ask("SET", f"{P}l:shop.product(7)", b"token", "PX", 90_000)
        asking.ask("SET", "hw:t:cold:v:shop.product(7)", b"another cache's")
        found = contents.inspect(asking, P, "product(")
        assert found["complete"]
        by_key = {value["key"].removeprefix("shop."): value for value in found["values"]}
        assert list(by_key) == ["product(10)", "product(7)", "product(8)", "product(9)"]
        seven, eight, nine = by_key["product(7)"], by_key["product(8)"], by_key["product(9)"]
        assert (seven["is_current"], seven["tags"], seven["tags_passed"]) == (True, ("product:7",), 0)
        assert 4.9 < seven["age_s"] < 60
        assert 240 < seven["ttl_left_s"] < 295.1
        assert 30 < seven["lease_s"] <= 90
        assert (eight["is_current"], eight["tags_passed"], eight["lease_s"]) == (False, 1, None)
        assert eight["ttl_left_s"] < 0
        assert not nine["is_current"]
        assert by_key["product(10)"]["age_s"] is None
        assert contents.inspect(asking, P, "*")["values"] == []  # a text is no pattern
        assert len(contents.inspect(asking, P, "product(7)")["values"]) == 1


def test_a_flush_voids_all_and_gives_back_the_room_of_this_cache_alone(tmp_path: Path) -> None:
    with valkey(tmp_path) as port, Asking(at(port), WAIT_S) as asking:
        generation = os.urandom(8)
        asking.ask("SET", f"{P}g", generation)
        asking.ask_all([("SET", f"{P}v:key {number}", b"x") for number in range(5_000)])
        asking.ask("SET", "hw:t:hot2:v:key", b"another cache's")
        assert contents.flush(asking, P, None) == {"tag": None, "removed": 5_000, "complete": True}
        assert asking.ask("GET", f"{P}g") not in (generation, None)
        assert asking.ask("DBSIZE") == 2


def test_a_flush_of_a_tag_leaves_the_others(tmp_path: Path) -> None:
    with valkey(tmp_path) as port, Asking(at(port), WAIT_S) as asking:
        now, one, other = (os.urandom(8) for _ in range(3))
        for name, generation in (("g", now), ("t:one", one), ("t:other", other)):
            asking.ask("SET", P + name, generation)
        put(asking, "a", now, one)
        put(asking, "b", now, other)
        put(asking, "c", now, one, other)
        contents.flush(asking, P, "one")
        found = {value["key"]: value["is_current"] for value in contents.inspect(asking, P, "")["values"]}
        assert found == {"a": False, "b": True, "c": False}


def test_a_flush_is_told_to_those_who_follow_changes(tmp_path: Path) -> None:
    with valkey(tmp_path) as port, socket.create_connection(("127.0.0.1", port), WAIT_S) as app:
        app.sendall(f"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX {P}g PREFIX {P}v:\r\n".encode())
        told = b""
        with Asking(at(port), WAIT_S) as asking:
            wait_for(lambda: asking.info()["tracking_clients"] == "1", 30, "tracking")
            asking.ask("SET", f"{P}v:key", b"x")
            contents.flush(asking, P, None)
            while told.count(b"invalidate") < 2 or f"{P}g".encode() not in told:
                told += app.recv(65_536)


def test_counts_of_processes_are_added_and_a_server_full_of_others_does_not_hide_them(tmp_path: Path) -> None:
    with valkey(tmp_path, "maxmemory 64mb") as port, Asking(at(port), WAIT_S) as asking:
        asking.ask_all([("SET", f"other:{number}", b"x") for number in range(20_000)])
        asking.ask("HSET", f"{P}s:host:1", "top:hits_near", 90, "top:loads", 10, "*:bytes_near", 100)
        asking.ask("HSET", f"{P}s:host:2", "top:hits_near", 100, "*:bytes_near", 50)
        found = contents.stats(asking, P)
        assert (found["processes"], found["complete"]) == (2, True)
        assert found["functions"]["top"]["hit_ratio"] == 0.95
        assert found["total"]["bytes_near"] == 150
        server = found["server"]
        assert (server["name"], server["max_bytes"], server["keys"]) == ("valkey", 64 << 20, 20_002)


def test_a_server_that_is_stopped_in_the_middle_is_given_up(tmp_path: Path) -> None:
    with valkey(tmp_path) as port, Asking(at(port), 2.0) as asking:
        os.kill(int(asking.info()["process_id"]), signal.SIGSTOP)
        began_s = time.monotonic()
        with pytest.raises(Unanswered, match="it is silent"):
            asking.ask("PING")
        assert time.monotonic() - began_s < 30
