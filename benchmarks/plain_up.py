"""Start guests with plain QEMU and wait until ssh greets on each: what `up` is measured against.

Run in the lab with a JSON file of guests; prints the seconds from nothing to all ready. Uses no part of Forkbed.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

BRIDGE = "plainbr"
GATEWAY = "10.77.0.1"


def main(plan: str) -> None:
    """Start what the plan names, wait, print the seconds, remove everything."""
    guests = json.loads(Path(plan).read_text())
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            started = time.monotonic()
            network(guests, directory, processes)
            for number, guest in enumerate(guests):
                processes.append(start(guest, number, directory))
            for guest in guests:
                await_greeting(guest["address"])
            print(time.monotonic() - started)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            for number in range(len(guests)):
                run("ip", "link", "del", f"plaintap{number}")
            run("ip", "link", "del", BRIDGE)


def run(*argv: str) -> None:
    """Run a tool; it has to succeed."""
    subprocess.run(argv, check=True)


def network(guests: list[dict[str, str]], directory: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """A bridge with an address, dnsmasq on it, and a tap for each guest."""
    run("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    run("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    hosts = Path(directory, "hosts")
    hosts.write_text("".join(f"{g['mac']},{g['address']},{g['name']},infinite\n" for g in guests))
    argv = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--interface={BRIDGE}", "--bind-interfaces",
        "--user=root", "--no-resolv", "--no-hosts", "--dhcp-authoritative", "--no-ping",
        "--dhcp-range=10.77.0.0,static,255.255.255.0,infinite", f"--dhcp-hostsfile={hosts}",
        f"--dhcp-leasefile={directory}/leases", "--pid-file",
    ]  # fmt: skip
    processes.append(subprocess.Popen(argv, stderr=subprocess.DEVNULL))
    for number in range(len(guests)):
        run("ip", "tuntap", "add", f"plaintap{number}", "mode", "tap")
        run("ip", "link", "set", f"plaintap{number}", "master", BRIDGE, "up")


def start(guest: dict[str, str], number: int, directory: str) -> subprocess.Popen[bytes]:
    """An overlay on the image, and QEMU on it."""
    disk = f"{directory}/{guest['name']}.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", guest["image"], "-F", "qcow2", disk)
    argv = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64", "-m", "128",
        "-smp", "1,maxcpus=8,sockets=8,cores=1,threads=1",
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{directory}/{guest['name']}.log",
        "-drive", f"file={disk},if=none,id=root,format=qcow2,discard=unmap",
        "-device", "virtio-blk-pci,drive=root,serial=root",
        "-drive", f"file={guest['seed']},if=none,id=seed,format=raw,readonly=on",
        "-device", "virtio-blk-pci,drive=seed,serial=seed",
        "-netdev", f"tap,id=net,ifname=plaintap{number},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=net,mac={guest['mac']},host_mtu=1442",
        "-device", "virtio-rng-pci", "-device", "virtio-balloon-pci", "-device", "pvpanic",
        "-device", f"vmgenid,guid={uuid.uuid4()}", "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=agent,path={directory}/{guest['name']}.agent,server=on,wait=off",
        "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        *(word for port in range(4) for word in ("-device", f"pcie-root-port,port={port},chassis={port + 1}")),
    ]  # fmt: skip
    return subprocess.Popen(argv)


def await_greeting(address: str) -> None:
    """Return when ssh greets."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, 22), timeout=0.1) as connection:
                connection.settimeout(2)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{address} did not become ready")


if __name__ == "__main__":
    main(sys.argv[1])
