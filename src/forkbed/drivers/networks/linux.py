"""The `Networks` port on this Linux host.

A network is made in the order record, filters, service namespace, bridge, dnsmasq, and taken apart with the filters
last: at no time is there a bridge whose ports no filter watches, or a part that no record or namespace tells of.

One that leads to a bridge of the host (`uplink: bridge:NAME`) has a bridge of its own too, and a port that joins the
two in place of a service namespace: addresses come from outside, and only one that the manifest declares is held
against the guest; else it may use any of the subnet that is nobody's here. So guests never change bridges, whatever
becomes of their network's way out.

A fork's network whose original has a way out (`UplinkKind.RECORDED`) is one of our own in any case, with a recorder in
its service namespace at which everything for elsewhere ends. There `bridge` names the original's host bridge, if it was
on one.
"""

from __future__ import annotations

import json
import pwd
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import structlog
from pyroute2.netlink.exceptions import NetlinkError

from forkbed.base.ids import InstallationId, NetworkId, SystemId
from forkbed.core.networks import names
from forkbed.core.networks.intents import Intent
from forkbed.core.networks.publications import publications
from forkbed.core.networks.recording import outside
from forkbed.core.systems.spec import ResolvedMachine, ResolvedNetwork, UplinkKind
from forkbed.core.systems.steps import Effect
from forkbed.core.systems.view import NetworkView
from forkbed.drivers.networks import connections, dnsmasq, filters, host_rules, namespaces, nft
from forkbed.drivers.networks.links import Links
from forkbed.drivers.networks.recorder import files, program
from forkbed.drivers.networks.recorder.kept import KeptIntents
from forkbed.drivers.networks.recorder.settings import Settings
from forkbed.drivers.networks.records import Record, Records, write_if_changed
from forkbed.drivers.networks.refusals import refuse_conflicts
from forkbed.drivers.networks.segment import BridgedSpec, Outside, Segment, SegmentSpec

MTU = 1442
"""Of every NIC from its first day: leaves room for a tunnel between hosts."""

_log = structlog.get_logger(__name__)
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class LinuxNetworks:
    """Networks of one installation, in the network namespace that this process runs in."""

    def __init__(
        self,
        installation: InstallationId,
        runtime_dir: Path,
        state_dir: Path,
        transit_pool: IPv4Network,
        *,
        mtu: int = MTU,
        resolvers: Sequence[Path] = _RESOLVERS,
    ) -> None:
        self._installation = installation
        self._directory = runtime_dir / "networks"
        self._published = runtime_dir / "published.json"
        self._records = Records(self._directory)
        self._intents = KeptIntents(state_dir / "intents")
        self._transit_pool = transit_pool
        self._mtu = mtu
        self._resolvers = resolvers

    def networks(self) -> Sequence[NetworkView]:
        """What the host shows without entering the service namespaces: some milliseconds for all together."""
        records = self._records.read_all()
        prefix = names.namespace_prefix(self._installation)
        present = {NetworkId(name.removeprefix(prefix)) for name in namespaces.names(prefix)}
        owners = self._intents.owners()
        present |= owners.keys()
        if not records and not present:
            return []
        with Links() as links:
            interfaces = links.all()
        tables = nft.tables()
        views = []
        for network_id in sorted(present | set(records)):
            record = records.get(network_id)
            if record is None:
                owner = owners.get(network_id, SystemId(""))
                views.append(NetworkView(network_id, owner, "", healthy=False))
                continue
            is_whole = self._segment(network_id).is_whole(record, interfaces)
            healthy = self._tables_of(record) <= tables and is_whole
            views.append(NetworkView(network_id, record.system_id, record.digest, healthy))
        return views

    def ensure(
        self,
        system_id: SystemId,
        system_name: str,
        network: ResolvedNetwork,
        members: Sequence[ResolvedMachine],
        digest: str,
    ) -> Effect:
        """See `Networks.ensure`. Refuses (CONFLICT) a port that something else on the host has."""
        with self._records.lock():
            wanted = self._record_for(system_id, system_name, network, members)
            known = self._records.read_all()
            others = [r for r in known.values() if r is not None and r.network_id != network.id]
            refuse_conflicts(wanted, known.get(network.id), others)
            complete = replace(wanted, digest=digest)
            changed = known.get(network.id) != complete
            if changed:
                self._records.write(wanted)
            network_filters = self._filters(wanted, network, members)
            changed |= nft.ensure(
                [self._host_rules(), network_filters], subject=f"filters of network {wanted.label}"
            )
            segment = self._segment(network.id)
            if wanted.outside:
                ports = guest_ports(network, members)
                before = known.get(network.id)
                was_interrupted = before is not None and not before.digest
                bridged = BridgedSpec(wanted.outside, network, self._mtu, ports, was_interrupted)
                changed |= segment.ensure_on_host_bridge(bridged)
            else:
                names_files = self._dnsmasq_files(wanted, system_name, network, members)
                recorded = self._outside(wanted, network, members) if wanted.recorded else None
                spec = SegmentSpec(wanted, network, self._transit_pool, self._mtu, names_files, recorded)
                changed |= segment.ensure(spec)
            if not wanted.recorded:
                self._intents.remove(network.id)
            self._tell_published()
            self._records.write(complete)
            return Effect.CHANGED if changed else Effect.ALREADY

    def remove(self, network_id: NetworkId) -> Effect:
        """See `Networks.remove`. Its machines are expected to be off; one that is not is cut off."""
        with self._records.lock():
            removed = self._records.directory(network_id).exists()
            removed |= self._segment(network_id).remove()
            removed |= self._intents.remove(network_id)
            table = ("bridge", names.bridge_name(self._installation, network_id))
            if table in nft.tables():
                nft.apply(nft.remove_table(table), subject=f"filters of network {network_id}")
                removed = True
            self._records.remove(network_id)
            nft.ensure([self._host_rules()], subject="filters of the networks")
            self._tell_published()
            return Effect.CHANGED if removed else Effect.ALREADY

    def hand_over(self, source: ResolvedNetwork, target: ResolvedNetwork) -> None:
        """See `Networks.hand_over`. On a host's bridge nothing is translated, so nothing is to be known."""
        if target.transit is None:
            return
        places = [names.namespace_name(self._installation, network.id) for network in (source, target)]
        if all(namespaces.exists(name) for name in places):
            known, new = (namespaces.path_of(name) for name in places)
            try:
                connections.hand_over(known, new)
            except (NetlinkError, OSError) as error:
                _log.warning("connections-end", source=source.id, target=target.id, error=str(error))

    def intents(self, network_id: NetworkId, *, after: int, limit: int) -> Sequence[Intent]:
        """See `Recorder.intents`. Where older ones were given up, the first one says how many."""
        return files.read(self._intents.directory(network_id), after=after, limit=limit)

    def bridge_name(self, network: ResolvedNetwork) -> str:
        """See `Networks.bridge_name`."""
        return names.bridge_name(self._installation, network.id)

    def namespace(self, network: ResolvedNetwork) -> str:
        """See `Networks.namespace`; guests on a host bridge are reached from the host's own."""
        if network.spec.uplink is UplinkKind.BRIDGE:
            return namespaces.HERE
        return str(namespaces.path_of(names.namespace_name(self._installation, network.id)))

    def _record_for(
        self,
        system_id: SystemId,
        system_name: str,
        network: ResolvedNetwork,
        members: Sequence[ResolvedMachine],
    ) -> Record:
        on_host_bridge = network.spec.uplink is UplinkKind.BRIDGE
        recorded = network.spec.uplink is UplinkKind.RECORDED
        return Record(
            network_id=network.id,
            system_id=system_id,
            label=f"{system_name}/{network.spec.name}",
            bridge=names.bridge_name(self._installation, network.id),
            subnet=network.spec.subnet,
            outside=network.spec.bridge if on_host_bridge else "",
            transit=None if on_host_bridge or recorded else network.transit,
            nat=network.spec.uplink is UplinkKind.NAT,
            recorded=recorded,
            publications=publications(network, members),
        )

    def _segment(self, network_id: NetworkId) -> Segment:
        return Segment(self._installation, network_id, self._records.directory(network_id))

    def _filters(
        self, record: Record, network: ResolvedNetwork, members: Sequence[ResolvedMachine]
    ) -> nft.Rules:
        segment = self._segment(network.id)
        table = filters.render_filters(
            filters.FilteredNetwork(
                table=record.bridge,
                subnet=network.spec.subnet,
                gateway=network.gateway,
                ipv6=network.spec.ipv6,
                port=segment.uplink.inner if record.outside else segment.service_port,
                ports=guest_ports(network, members),
                on_host_bridge=bool(record.outside),
            )
        )
        applied = self._records.directory(network.id) / "filters.nft"
        return nft.Rules({("bridge", record.bridge): table}, applied)

    def _host_rules(self) -> nft.Rules:
        """The tables that all networks share, for the records there are now."""
        records = self._readable_records()
        guard, host = self._shared_tables()
        wanted = {
            guard: host_rules.render_guard(self._installation, records),
            host: host_rules.render_host_table(self._installation, records),
        }
        return nft.Rules(wanted, self._directory / "host-rules.nft")

    def _shared_tables(self) -> tuple[nft.Table, nft.Table]:
        """The guard and the host's own."""
        guard, host = host_rules.guard_table(self._installation), host_rules.host_table(self._installation)
        return ("bridge", guard), ("inet", host)

    def _dnsmasq_files(
        self, record: Record, system_name: str, network: ResolvedNetwork, members: Sequence[ResolvedMachine]
    ) -> dict[str, str]:
        directory = self._records.directory(network.id)
        resolvers = None
        if record.nat:
            contents = [(path, path.read_text()) for path in self._resolvers if path.exists()]
            resolvers = dnsmasq.choose_resolvers(contents)
        leases = [
            dnsmasq.Lease(nic.mac, nic.address, machine.name)
            for machine in members
            for nic in machine.nics
            if nic.network_id == network.id
        ]
        return dnsmasq.render_files(
            dnsmasq.NameService(
                directory=directory,
                system_name=system_name,
                subnet=network.spec.subnet,
                gateway=network.gateway,
                mtu=self._mtu,
                is_way_out=record.nat or record.recorded,
                resolvers=resolvers,
                recorded=record.recorded,
                user=_dnsmasq_user(directory),
                leases=tuple(leases),
            )
        )

    def _outside(
        self, record: Record, network: ResolvedNetwork, members: Sequence[ResolvedMachine]
    ) -> Outside:
        machines = [port.address for port in guest_ports(network, members)]
        is_shared = bool(network.spec.bridge)
        neighbours = outside.leads_to_neighbours(machines, is_shared=is_shared)
        settings = Settings(
            intents=self._intents.make(network.id, record.system_id),
            pid_file=self._records.directory(network.id) / program.PID,
            user="nobody",
            gateway=network.gateway,
            pool=outside.name_pool(network.spec.subnet),
        )
        return Outside(
            inside=outside.inside(network.spec.subnet, network.gateway, machines, is_shared=is_shared),
            is_shared=is_shared,
            only_reaches=tuple(a for a in machines if a is not None) if neighbours else (),
            settings=settings.as_text(),
        )

    def _tell_published(self) -> None:
        """Write the list of published ports, for a proxy in front of a lab."""
        listed = [
            {
                "protocol": str(entry.protocol),
                "host_address": str(entry.host_address),
                "host_port": entry.host_port,
            }
            for record in self._readable_records()
            for entry in record.publications
        ]
        write_if_changed(self._published, json.dumps(listed, indent=1) + "\n")

    def _readable_records(self) -> list[Record]:
        return [record for record in self._records.read_all().values() if record is not None]

    def _tables_of(self, record: Record) -> frozenset[nft.Table]:
        return frozenset({*self._shared_tables(), ("bridge", record.bridge)})


def guest_ports(
    network: ResolvedNetwork, members: Sequence[ResolvedMachine]
) -> tuple[filters.GuestPort, ...]:
    """The members' ports on the network.

    On a host bridge, and in a fork of what was on one, only an address that the manifest names is fixed.
    """
    given_outside = bool(network.spec.bridge)
    ports = []
    for machine in members:
        for index, nic in enumerate(machine.nics):
            if nic.network_id != network.id:
                continue
            is_fixed = not given_outside or machine.spec.nics[index].address is not None
            ports.append(filters.GuestPort(nic.tap, nic.mac, nic.address if is_fixed else None))
    return tuple(ports)


def _dnsmasq_user(directory: Path) -> str:
    """An account without rights, if it can read the files there: dnsmasq reads them again on its own."""
    if any(not parent.stat().st_mode & 0o001 for parent in (directory, *directory.parents)):
        return "root"
    try:
        return pwd.getpwnam("dnsmasq").pw_name
    except KeyError:
        return "nobody"
