"""A system on a bridge of the host is promoted and reverted: its neighbour on the bridge goes on to talk to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkbed import lab as labs
from forkbed.drivers.networks import namespaces
from tests.real.installation import Installation, prepare
from tests.real.networks.world import arp, inet_socket, packet_port

ADDRESS, MAC = "10.40.0.10", "52:54:00:40:00:10"
SHOP = f"""version: 1
system: shop
networks:
  lan: {{subnet: 10.40.0.0/24, uplink: "bridge:br0"}}
machines:
  web:
    image: micro
    memory: 128MiB
    nics: [{{network: lan, address: {ADDRESS}, mac: "{MAC}"}}]
    setup:
      - "echo old >/root/page"
      - when: boot
        run: |
          for serves in "7 -e cat" "80 -e cat /root/page"; do
            setsid nc -ll -p $serves </dev/null >/dev/null 2>&1 &
          done
    ready: [{{tcp: 7}}]
    maintenance: {{on: ["touch /run/maintenance"], off: ["rm /run/maintenance"]}}
"""
STEPS = 'version: 1\nsteps: [{name: page, machine: web, run: "echo new >/root/page; sync"}]\n'
BRIDGE = f"""set -e
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.40.0.2/24 dev br0
ip netns add outsider
ip link add lan0 master br0 type veth peer name eth0 netns outsider
ip link set lan0 up
ip -n outsider link set eth0 up
ip -n outsider addr add 10.40.0.3/24 dev eth0
dnsmasq --conf-file=/dev/null --interface=br0 --bind-interfaces --port=0 --pid-file=/run/outside.pid \
  --dhcp-leasefile=/run/outside.leases --dhcp-range=10.40.0.0,static --dhcp-host={MAC},{ADDRESS}
"""


@pytest.fixture
def shop(lab_dir: Path, tmp_path: Path) -> Iterator[Installation]:
    with labs.temporary(lab_dir, "test-bridged-") as lab:
        lab.run(["sh", "-c", BRIDGE])
        installation = prepare(lab, tmp_path)
        installation.up(SHOP)
        yield installation


def said(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return connection.recv(100)


def page(outsider: Path) -> str:
    with inet_socket(outsider, socket.SOCK_STREAM) as client:
        client.connect((ADDRESS, 80))
        return client.recv(100).decode().strip()


def test_the_neighbour_notices_a_pause_only(shop: Installation) -> None:
    outsider = Path(f"/proc/{shop.lab.init.pid}/root{namespaces.path_of('outsider')}")
    steps = shop.directory / "steps.yaml"
    steps.write_text(STEPS)
    shop.forkbed("rehearse", "shop", "--steps", steps, "--as", "try")
    assert page(outsider) == "old"
    witness = packet_port(outsider, "eth0")
    announcement = arp(1, (MAC, ADDRESS), ("00:00:00:00:00:00", ADDRESS))
    with inet_socket(outsider, socket.SOCK_STREAM) as open_connection:
        open_connection.connect((ADDRESS, 7))
        assert said(open_connection, b"before") == b"before"
        witness.drain()
        shop.forkbed("promote", "try")
        assert witness.sees(announcement, 1.0)
        assert said(open_connection, b"after") == b"after"
    assert page(outsider) == "new"
    shop.exec("shop/web", "test", "!", "-e", "/run/maintenance")
    machine = shop.machine("shop", "web")
    assert not machine["restart_pending"]
    witness.drain()
    shop.forkbed("revert", "shop", "--accept-loss")
    assert witness.sees(announcement, 1.0)
    assert page(outsider) == "old"
    ports = shop.lab.run(["ip", "-br", "link", "show", "master", "br0"]).text.split("\n")
    assert len([line for line in ports if line]) == 2, "the neighbour's and that of one generation"
    shop.remove_everything()
    assert "br0" in shop.lab.run(["ip", "-br", "link"]).text
