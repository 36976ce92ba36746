"""Calls with limits, errors as kinds, events, and boots, against libvirt's own in-memory driver."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest

from forkbed.base.errors import Kind, OperationalError
from forkbed.drivers.libvirt import failures
from forkbed.drivers.libvirt.boots import Boots
from forkbed.drivers.libvirt.connection import Connected, Connection, DomainEvent, Event
from forkbed.drivers.libvirt.domain_xml import read_boot

DOMAIN = "<domain type='test'><name>guest</name><memory>65536</memory><os><type>hvm</type></os></domain>"


@pytest.fixture
def events() -> queue.Queue[Event]:
    return queue.Queue()


@pytest.fixture
def connection(events: queue.Queue[Event]) -> Iterator[Connection]:
    made = Connection("test:///default", events.put)
    yield made
    made.close()


def call(connection: Connection, function: Any, *, timeout_s: float = 10) -> Any:
    return connection.call(function, subject="machine a/b", action="do it", timeout_s=timeout_s)


def test_a_call_returns_what_its_function_does(connection: Connection, events: queue.Queue[Event]) -> None:
    assert call(connection, lambda c: [d.name() for d in c.listAllDomains(0)]) == ["test"]
    assert events.get(timeout=5) == Connected(again=False)


def test_libvirts_errors_become_kinds(connection: Connection) -> None:
    def change_stopped(c: Any) -> None:
        c.defineXML(DOMAIN.replace("guest", "stopped")).setMemory(1024)

    cases = {
        Kind.NOT_FOUND: lambda c: c.lookupByName("nobody"),
        Kind.CONFLICT: change_stopped,
        Kind.FAULT: lambda c: c.defineXML("<domain/>"),
    }
    for kind, function in cases.items():
        with pytest.raises(OperationalError) as failure:
            call(connection, function)
        assert failure.value.kind is kind
        assert failure.value.subject == "machine a/b"
        assert failure.value.brief.startswith("cannot do it: ")
        assert isinstance(failure.value.__cause__, libvirt.libvirtError)


def test_our_own_errors_and_bugs_pass_unchanged(connection: Connection) -> None:
    own = OperationalError(Kind.BUSY, "x", "y")

    def fail(error: Exception) -> Any:
        def function(_: Any) -> None:
            raise error

        return function

    with pytest.raises(OperationalError) as failure:
        call(connection, fail(own))
    assert failure.value is own
    with pytest.raises(ZeroDivisionError):
        call(connection, fail(ZeroDivisionError()))


def test_a_call_that_hangs_costs_its_limit_and_no_more(connection: Connection) -> None:
    release = threading.Event()
    try:
        started = time.monotonic()
        with pytest.raises(OperationalError) as failure:
            call(connection, lambda _: release.wait(30), timeout_s=0.2)
        assert failure.value.kind is Kind.UNREACHABLE
        assert "no answer for 0.2 s" in failure.value.brief
        assert time.monotonic() - started < 5
        assert call(connection, lambda _: 42) == 42, "others go on meanwhile"
    finally:
        release.set()


def test_nobody_there_is_unreachable(events: queue.Queue[Event], tmp_path: Any) -> None:
    connection = Connection(f"qemu:///system?socket={tmp_path}/none", events.put)
    try:
        with pytest.raises(OperationalError) as failure:
            call(connection, lambda c: c.listAllDomains(0))
        assert failure.value.kind is Kind.UNREACHABLE
    finally:
        connection.close()


def test_events_arrive_in_order(connection: Connection, events: queue.Queue[Event]) -> None:
    uuid = call(connection, lambda c: c.lookupByName("test").UUIDString())
    assert isinstance(events.get(timeout=5), Connected)
    call(connection, lambda c: c.lookupByName("test").suspend())
    call(connection, lambda c: c.lookupByName("test").resume())
    call(connection, lambda c: c.lookupByName("test").destroy())
    seen = [events.get(timeout=5) for _ in range(3)]
    assert [(event.uuid, event.event) for event in seen if isinstance(event, DomainEvent)] == [
        (uuid, libvirt.VIR_DOMAIN_EVENT_SUSPENDED),
        (uuid, libvirt.VIR_DOMAIN_EVENT_RESUMED),
        (uuid, libvirt.VIR_DOMAIN_EVENT_STOPPED),
    ]


def test_each_start_is_another_boot_and_each_reset_too(connection: Connection) -> None:
    boots = Boots()

    def boot_of(c: Any) -> str:
        domain = c.lookupByName("guest")
        return boots.of(domain, ElementTree.fromstring(domain.XMLDesc(0))).id

    call(connection, lambda c: c.defineXML(DOMAIN).create())
    first = call(connection, boot_of)
    assert call(connection, boot_of) == first
    reset = call(connection, lambda c: boots.count_reset(c.lookupByName("guest"))).id
    assert reset != first
    assert call(connection, boot_of) == reset
    call(connection, lambda c: c.lookupByName("guest").destroy())
    inactive = call(connection, lambda c: c.lookupByName("guest").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert read_boot(ElementTree.fromstring(inactive)) is None, "a stop forgets the boot"
    call(connection, lambda c: c.lookupByName("guest").create())
    assert call(connection, boot_of) not in (first, reset)


def test_a_connection_closed_by_another_thread_is_no_answer() -> None:
    closed = libvirt.open("test:///default")
    closed.close()
    with pytest.raises(libvirt.libvirtError) as caught:
        closed.defineXML("<domain/>")
    assert failures.translate(caught.value, "machine a", "define it").kind is Kind.UNREACHABLE
