"""A driver whose traffic is counted: processes in a network namespace with one way out."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.services.isolation import Namespace, need_namespaces, program
from tests.support.services.process import HOST, spawn, wait_until_ready
from tests.support.services.spark import environment

# Addresses for measurements (RFC 2544), which no real network has; four for each driver.
_ADDRESSES = IPv4Address("198.18.0.0")
_NETWORKS = 1 << 15
_TRIES = 5
# A connection inside the driver goes to one of these ports, as to the JVM from Python. Every port
# below is the one of the machine outside, so a service has the same address in here.
_OWN_PORTS = (61_000, 65_535)
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Kernels drop packets from and to 127.0.0.1 that come by a network, unless a device allows them.
_OUTSIDE = """
ip link add "$1" type veth peer name eth0 netns "$2"
ip link set "$1" addrgenmode none
ip addr add "$3/30" dev "$1"
ip link set "$1" up
echo 1 > "/proc/sys/net/ipv4/conf/$1/route_localnet"
"""
_INSIDE = f"""
ip link set lo up
ip link set eth0 addrgenmode none
ip addr add "$2/30" dev eth0
ip link set eth0 up
cd /proc/sys/net/ipv4
echo 1 > conf/eth0/route_localnet
echo 1 > conf/eth0/accept_local
echo 0 > conf/eth0/rp_filter
echo 0 > conf/all/rp_filter
echo {_OWN_PORTS[0]} {_OWN_PORTS[1]} > ip_local_port_range
ip rule add pref 10 lookup local
ip rule add pref 5 to {HOST} ipproto tcp dport 1-{_OWN_PORTS[0] - 1} lookup 100
ip rule del pref 0
ip route add {HOST} via "$1" dev eth0 src "$2" table 100
"""


class CountedDriver:
    """Processes whose network traffic is counted, with all that others exchange with them.

    Services that listen on 127.0.0.1 of this machine have the same address and port for them, up
    to port 60999; they themselves are reached at `host`.
    """

    def __init__(self, namespace: Namespace, device: str, host: str, holder: int) -> None:
        self.host = host
        self._namespace = namespace
        self._statistics = Path("/sys/class/net") / device / "statistics"
        self._holder = holder
        self._last: tuple[int, int] | None = None
        self._zero = self._counted()

    @property
    def settings(self) -> dict[str, str]:
        """What an application sets beside its cluster's settings, so that executors find it."""
        return {"spark.driver.host": self.host, "spark.driver.bindAddress": self.host}

    @property
    def environment(self) -> dict[str, str]:
        """What `run` and `start` add to the environment of a command."""
        return {"SPARK_LOCAL_IP": self.host}

    @property
    def received(self) -> int:
        """Bytes that came in since the start or the last `reset`, with the heads of packets."""
        return self._counted()[0] - self._zero[0]

    @property
    def sent(self) -> int:
        """Bytes that went out since the start or the last `reset`, with the heads of packets."""
        return self._counted()[1] - self._zero[1]

    def reset(self) -> None:
        """Count from zero again."""
        self._zero = self._counted()

    def start(
        self, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command, with pipes to it; it is killed at the latest with the driver."""
        return subprocess.Popen(
            [program("nsenter"), f"--net=/proc/{self._holder}/ns/net", "--", *command],
            env={**(environment() if env is None else env), **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, *, seconds: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `subprocess.TimeoutExpired` if it takes too long."""
        with self.start(command, env) as process:
            try:
                output, errors = process.communicate(timeout=seconds)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def processes(self) -> set[int]:
        """What runs in it now, beside the process that keeps the namespace."""
        return self._namespace.processes() - {self._holder}

    def close(self) -> None:
        """Kill what runs in it. The network goes with that; the counts stay."""
        self._last = self._counted()
        self._namespace.kill()

    def _counted(self) -> tuple[int, int]:
        """Received and sent of the driver: sent and received of the device outside."""
        if self._last is not None:
            return self._last
        names = ("tx_bytes", "rx_bytes")
        received, sent = (int((self._statistics / name).read_text()) for name in names)
        return received, sent


@contextmanager
def counted_driver(folder: Path) -> Iterator[CountedDriver]:
    """A driver for commands whose traffic is counted; `folder` is for a log. Needs root."""
    need_namespaces()
    highest = int(_RANGE.read_text().split()[1])
    if highest >= _OWN_PORTS[0]:
        pytest.fail(f"{_RANGE} must end below {_OWN_PORTS[0]}, not at {highest}", pytrace=False)
    log = folder / "driver-network.log"
    outside = Namespace.of(os.getpid(), "net")
    holder = spawn([program("unshare"), "--net", "sleep", "infinity"], log)
    try:
        wait_until_ready(holder, lambda: Namespace.of(holder.pid, "net") != outside, log)
        device, host = _connect(holder.pid)
        driver = CountedDriver(Namespace.of(holder.pid, "net"), device, host, holder.pid)
        try:
            yield driver
        finally:
            driver.close()
    finally:
        holder.kill()
        holder.wait()


def _connect(holder: int) -> tuple[str, str]:
    """Connect the namespace of a process with this machine: the device here, the address there."""
    for left in reversed(range(_TRIES)):
        chosen = random.SystemRandom().randrange(_NETWORKS)
        here, there = (str(_ADDRESSES + 4 * chosen + at) for at in (1, 2))
        device = f"driver{chosen}"  # so a network in use is seen by the name that is taken
        made = _shell(_OUTSIDE, device, str(holder), here)
        if not made.returncode:
            break
        assert left, made.stderr
    inside = [program("nsenter"), f"--net=/proc/{holder}/ns/net", "--"]
    made = _shell(_INSIDE, here, there, around=inside)
    assert not made.returncode, made.stderr
    return device, there


def _shell(
    script: str, *words: str, around: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(program("ip")).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.run(
        [*around, "sh", "-eu", "-c", script, "sh", *words],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
