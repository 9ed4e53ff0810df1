"""ZooKeeper, three servers, data on tmpfs; setData at the leader, over its own protocol."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.processes import processes
from mpaxos.bench.load import Workload, drive
from mpaxos.bench.measure import Server, Target
from mpaxos.local import free_ports

NAME = "ZooKeeper, three, on tmpfs"
PROTOCOL = "zookeeper"
SERVERS = 3

JAR = Path("/usr/share/java/zookeeper.jar")
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


def why_not() -> str | None:
    """None when it is installed."""
    if shutil.which("java") and JAR.exists():
        return None
    return "not installed (zookeeper)"


def _mode(port: int) -> str:
    """leader or follower, empty while it is neither."""
    with socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"srvr")
        text = b""
        while data := connection.recv(4096):
            text += data
    for line in text.decode(errors="replace").splitlines():
        if line.startswith("Mode: "):
            return line.removeprefix("Mode: ")
    return ""


@contextlib.contextmanager
def started(workload: Workload) -> Iterator[Target]:
    """The servers, with a leader, and with the keys of the workload."""
    ports = free_ports(3 * SERVERS)
    clients, quorum, election = ports[:3], ports[3:6], ports[6:]
    members = "".join(
        f"server.{i + 1}=127.0.0.1:{quorum[i]}:{election[i]}\n" for i in range(SERVERS)
    )
    with processes("zookeeper") as running:
        pids = []
        for i, port in enumerate(clients):
            data = running.directory / f"server{i}"
            data.mkdir()
            (data / "myid").write_text(f"{i + 1}\n")
            (data / "zoo.cfg").write_text(
                f"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={data}\n"
                f"clientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n"
                "maxSessionTimeout=600000\nadmin.enableServer=false\n"
                f"4lw.commands.whitelist=srvr\n{members}"
            )
            words = ["java", "-Xmx512m", f"-Djute.maxbuffer={4 << 20}"]
            words += ["-Dzookeeper.root.logger=ERROR,CONSOLE", "-cp", str(JAR), MAIN]
            pids.append(running.start([*words, str(data / "zoo.cfg")]))
        running.wait_for(
            lambda: any(_mode(port) == "leader" for port in clients), "a leader of ZooKeeper"
        )
        leader = next(i for i, port in enumerate(clients) if _mode(port) == "leader")
        address = f"127.0.0.1:{clients[leader]}"
        creating = msgspec.structs.replace(
            workload,
            protocol=PROTOCOL,
            create=True,
            distribution="sequential",
            count=workload.keys,
            connections=16,
            depth=16,
            reads=0.0,
            rate=0.0,
            warm_up=0.0,
        )
        drive(creating, [address])
        yield Target(
            addresses=[address],
            servers=[
                Server(f"server {i}", "leader" if i == leader else "follower", pid)
                for i, pid in enumerate(pids)
            ],
            text=NAME,
        )
