"""Large manifests for measuring: as many machines as wanted, with what real ones have, and nothing wrong."""

from __future__ import annotations

_MACHINES_PER_NETWORK = 250


def large_manifest(machines: int, image: str = "micro:dev") -> str:
    """A manifest of that many machines: /24 networks, fixed addresses, volumes, probes, files, an order."""
    networks = -(-machines // _MACHINES_PER_NETWORK)
    lines = ["version: 1", "system: large", "", "variables:", f"  image: {image}", "", "networks:"]
    for network in range(networks):
        lines += [
            f"  net-{network}:",
            f"    subnet: 10.{network // 256}.{network % 256}.0/24",
            "    uplink: nat",
        ]
    lines += ["", "machines:"]
    for index in range(machines):
        lines += _machine(index)
    return "\n".join(lines) + "\n"


def _machine(index: int) -> list[str]:
    network, host = divmod(index, _MACHINES_PER_NETWORK)
    first = index - index % 10
    return [
        f"  machine-{index}:",
        "    image: ${image}",
        f"    cpus: {1 + index % 4}",
        "    memory: 512MiB",
        "    volumes:",
        f"      data: {{size: {1 + index % 3}GiB, mount: /srv/data}}",
        "    nics:",
        f"      - {{network: net-{network}, address: 10.{network // 256}.{network % 256}.{host + 2}}}",
        *([f'    publish: ["{10000 + index}:80"]'] if index % 10 == 0 and index < 50_000 else []),
        *([f"    after: [machine-{first}]"] if index != first else []),
        "    files:",
        f"      - {{path: /etc/motd, content: this is machine {index}}}",
        "    setup:",
        "      - systemctl enable --now nginx",
        "    ready:",
        "      - tcp: 80",
    ]
