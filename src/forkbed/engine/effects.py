"""Carry out one step on the host. Every effect is idempotent, and looks again before it destroys."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, VolumeId
from forkbed.base.units import format_duration
from forkbed.core.systems import digests
from forkbed.core.systems.goal import MemoryRef
from forkbed.core.systems.planner import ALIVE
from forkbed.core.systems.spec import ProbeKind, ProbeSpec, ResolvedMachine, ResolvedSystem, ResolvedVolume
from forkbed.core.systems.steps import (
    AwaitReady,
    AwakenMachine,
    CheckMachine,
    CreateVolume,
    DefineMachine,
    Effect,
    EnsureNetwork,
    GrowVolume,
    PauseMachine,
    RemoveNetwork,
    RemoveVolume,
    RestoreMachine,
    ResumeMachine,
    StartMachine,
    Step,
    StopMachine,
    UndefineMachine,
    WriteSeed,
)
from forkbed.engine.awakening import awaken
from forkbed.engine.host import Host
from forkbed.ports.guests import GuestAddress, SeedContent
from forkbed.ports.hypervisor import HypervisorMachine, MachineDefinition, NicAttachment
from forkbed.ports.progress import Progress
from forkbed.ports.store import ReadyMark, Store
from forkbed.ports.volumes import BaseImage

GUEST_MTU = 1442  # leaves room for a tunnel's headers in a 1500-byte network
REACHABLE_TIMEOUT_S = 300.0
_STOP_POLL_S = 0.2
_ASK_AGAIN_S = 5.0
_CONSOLE_TAIL_BYTES = 1500
_LOOK_EVERY_S = 2.0


class Effects:
    """Carries out the steps of one system's plans."""

    def __init__(self, host: Host, store: Store, system: ResolvedSystem) -> None:
        self._host = host
        self._store = store
        self._system = system

    def carry_out(self, step: Step, progress: Progress) -> Effect:
        """Do the step. Raises `OperationalError`, or `Cancelled` where stopping harms nothing."""
        host = self._host
        match step:
            case EnsureNetwork(network=network, members=members, digest=digest):
                return host.networks.ensure(
                    self._system.id, self._system.inner_name, network, members, digest
                )
            case RemoveNetwork(network_id=network_id):
                return host.networks.remove(network_id)
            case CreateVolume(volume=volume, machine=machine):
                return self._create_volume(machine, volume)
            case GrowVolume(volume=volume):
                return host.volumes.grow(volume)
            case RemoveVolume(volume_id=volume_id):
                return self._remove_volume(volume_id)
            case WriteSeed(machine=machine, digest=digest):
                return host.guests.seed(machine, self._seed_content(machine), digest)
            case DefineMachine(machine=machine):
                return self.define(machine)
            case UndefineMachine(machine_id=machine_id):
                effect = host.hypervisor.undefine(machine_id)
                host.guests.remove_seed(machine_id)
                return effect
            case StartMachine(machine=machine):
                host.guests.forget(machine.id)
                self.define(machine)  # after a cut by a controller that died it may name a layer that is kept
                return host.hypervisor.start(machine.id)
            case RestoreMachine(machine=machine, memory=memory):
                return self._restore(machine, memory)
            case StopMachine(machine_id=machine_id, timeout_s=timeout_s):
                return self._stop(machine_id, timeout_s, progress)
            case PauseMachine(machine_id=machine_id):
                return host.hypervisor.pause(machine_id)
            case ResumeMachine(machine_id=machine_id):
                return host.hypervisor.resume(machine_id)
            case AwakenMachine(machine=machine):
                effect = host.hypervisor.resume(machine.id)
                awaken(host, self._store, self._system.name, machine, progress)
                return effect
            case AwaitReady():
                return self._await_ready(step, progress)
            case CheckMachine(machine=machine):
                return self._check(machine, progress)
        assert_never(step)

    def define(self, machine: ResolvedMachine) -> Effect:
        """Write the machine's definition with its disks as they are now; ALREADY if nothing of it differs."""
        return self._host.hypervisor.define(self._definition(machine))

    def _create_volume(self, machine: ResolvedMachine, volume: ResolvedVolume) -> Effect:
        if volume.origin is not None:
            return self._host.volume_cuts.create_on_cut(self._system.id, machine, volume)
        image = self._base_image(machine) if volume.image_id else None
        return self._host.volumes.create(self._system.id, machine, volume, image)

    def _restore(self, machine: ResolvedMachine, memory: MemoryRef) -> Effect:
        """Bring it back from a memory. What was written to the volumes before belongs to a try that failed."""
        seen = self._seen(machine.id)
        if seen is not None and seen.power in ALIVE:
            return Effect.ALREADY
        for volume in machine.volumes:
            self._host.volume_cuts.renew(volume)
        self._host.guests.forget(machine.id)
        definition = self._definition(machine)
        self._host.hypervisor.define(definition)
        return self._host.cuts.restore(definition, memory)

    def _base_image(self, machine: ResolvedMachine) -> BaseImage:
        file = self._host.images.file(machine.image_id)
        return BaseImage(machine.image_id, str(file.path), file.format, file.size_bytes)

    def _seed_content(self, machine: ResolvedMachine) -> SeedContent:
        contents = self._host.contents
        return SeedContent(
            system_name=self._system.inner_name,
            files={file.content_hash: contents.get(file.content_hash) for file in machine.spec.files},
            secrets={secret.name: contents.get_secret(secret.version) for secret in machine.spec.secrets},
        )

    def _definition(self, machine: ResolvedMachine) -> MachineDefinition:
        root, *data = (self._host.volumes.attachment(volume) for volume in machine.volumes)
        nics = tuple(
            NicAttachment(
                bridge=self._host.networks.bridge_name(self._system.network(nic.network_id)),
                tap=nic.tap,
                mac=nic.mac,
                mtu=GUEST_MTU,
            )
            for nic in machine.nics
        )
        return MachineDefinition(
            system_id=self._system.id,
            system_name=self._system.name,
            revision=self._system.revision,
            machine=machine,
            disks=(root, self._host.guests.seed_attachment(machine), *data),
            nics=nics,
            digest=digests.definition_digest(self._system, machine),
        )

    def _seen(self, machine_id: MachineId) -> HypervisorMachine | None:
        return self._host.hypervisor.machine(machine_id)

    def _remove_volume(self, volume_id: VolumeId) -> Effect:
        """Destroy a volume, but look again first: nobody may be running on it."""
        volume = next((v for v in self._host.volumes.volumes() if v.volume_id == volume_id), None)
        if volume is None:
            return Effect.ALREADY
        seen = self._seen(volume.machine_id)
        declared = next((m for m in self._system.machines if m.id == volume.machine_id), None)
        current = declared is not None and any(v.id == volume_id for v in declared.volumes)
        outdated = declared is None or (
            seen is not None and seen.running_digest != digests.definition_digest(self._system, declared)
        )
        if seen is not None and seen.power in ALIVE and (current or outdated):
            raise OperationalError(
                Kind.UNSAFE,
                f"volume {volume.machine_name}/{volume.name}",
                "was not removed: a machine that may use it is running",
                "stop the machine first",
            )
        return self._host.volumes.remove(volume_id)

    def _stop(self, machine_id: MachineId, timeout_s: float, progress: Progress) -> Effect:
        seen = self._seen(machine_id)
        if seen is None or seen.power not in ALIVE:
            return Effect.ALREADY
        clock = self._host.clock
        if timeout_s > 0:
            deadline = clock.now() + timeout_s
            asked_at = float("-inf")
            progress.tell("the guest shuts down")
            while clock.now() < deadline:
                if (
                    clock.now() - asked_at >= _ASK_AGAIN_S
                ):  # a guest that is still booting misses the first time
                    self._host.hypervisor.shut_down(machine_id)
                    asked_at = clock.now()
                clock.sleep(_STOP_POLL_S)
                progress.check_cancelled()
                seen = self._seen(machine_id)
                if seen is None or seen.power not in ALIVE:
                    self._host.guests.forget(machine_id)
                    return Effect.CHANGED
            progress.tell(f"did not shut down within {format_duration(timeout_s)}: ended")
        self._host.guests.forget(machine_id)
        return self._host.hypervisor.force_off(machine_id)

    def _await_ready(self, step: AwaitReady, progress: Progress) -> Effect:
        """Wait for the guest, set it up, wait for its probes; then remember that this boot passed."""
        machine = step.machine
        address = self._address(machine)
        spec = machine.spec
        needs_shell = bool(spec.setup) or any(probe.kind is ProbeKind.EXEC for probe in spec.ready)
        if needs_shell or not spec.ready:
            progress.tell("waiting for the guest")
            watched = _Watched(progress, lambda: self._check_boot(step), self._host.clock.now)
            try:
                via = self._host.guests.await_reachable(address, REACHABLE_TIMEOUT_S, watched)
            except OperationalError as error:
                if error is watched.error:
                    raise  # not the guest's silence
                raise self._with_console(machine, error) from error
            progress.tell(f"reached over {via}")
        if spec.setup:
            self._host.guests.run_setup(address, spec.setup, progress)
        for probe in spec.ready:
            self._await_probe(machine, probe, "is not ready", progress, lambda: self._check_boot(step))
        self._check_boot(step)
        failure = self._host.guests.seed_failure(address)
        if failure:
            refusal = OperationalError(
                Kind.FAULT,
                f"machine {machine.name}",
                f"did not take over all that its manifest declares: {failure}",
                f"mend the cause, then `forkbed restart {self._system.name}/{machine.name}`",
            )
            raise self._with_console(machine, refusal)
        self._store.mark_ready(machine.id, ReadyMark(step.boot_id, step.digest))
        return Effect.CHANGED

    def _check(self, machine: ResolvedMachine, progress: Progress) -> Effect:
        """Ask the machine's checks, each until it is good or its time is over."""
        for probe in machine.spec.checks:
            self._await_probe(machine, probe, "fails its checks", progress)
        return Effect.ALREADY

    def _await_probe(
        self,
        machine: ResolvedMachine,
        probe: ProbeSpec,
        otherwise: str,
        progress: Progress,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask until the answer is good; after the probe's time a FAULT that says the machine is `otherwise`."""
        clock = self._host.clock
        address = self._address(machine)
        deadline = clock.now() + probe.timeout_s
        looked_at = clock.now()
        while True:
            answer = self._host.guests.probe(address, probe)
            if answer.good:
                return
            progress.tell(f"{describe_probe(probe)}: {answer.reason}")
            progress.check_cancelled()
            if clock.now() >= deadline:
                error = OperationalError(
                    Kind.FAULT,
                    f"machine {machine.name}",
                    f"{otherwise} after {format_duration(probe.timeout_s)}: "
                    f"{describe_probe(probe)}: {answer.reason}",
                    "see `forkbed logs`; give the probe a longer `timeout` if the guest is only slow",
                )
                raise self._with_console(machine, error)
            if clock.now() - looked_at >= _LOOK_EVERY_S:
                look()
                looked_at = clock.now()
            clock.sleep(probe.interval_s)

    def _address(self, machine: ResolvedMachine) -> GuestAddress:
        return GuestAddress(machine, tuple(self._system.network(nic.network_id) for nic in machine.nics))

    def _check_boot(self, step: AwaitReady) -> None:
        """Raise if the boot that we wait for has ended, so that nobody waits for a guest that is gone."""
        seen = self._seen(step.machine.id)
        if seen is None or seen.power not in ALIVE:
            error = OperationalError(
                Kind.FAULT,
                f"machine {step.machine.name}",
                "stopped by itself before it was ready",
                "the end of its serial console may say why",
            )
            raise self._with_console(step.machine, error)
        if seen.boot_id != step.boot_id:
            raise BootEnded(step.machine.name)

    def _with_console(self, machine: ResolvedMachine, error: OperationalError) -> OperationalError:
        """The error with the end of the serial console, which often says why.

        A guest that does not answer is a FAULT: UNREACHABLE is a host that may answer soon.
        """
        try:
            tail = self._host.hypervisor.console_log(machine.id, tail_bytes=_CONSOLE_TAIL_BYTES)
        except OperationalError:
            tail = b""
        lines = tail.decode(errors="replace").splitlines()[-12:]
        shown = ["end of the serial console:", *lines] if lines else []
        details = (*error.details, *shown)
        kind = Kind.FAULT if error.kind is Kind.UNREACHABLE else error.kind
        return OperationalError(kind, error.subject, error.brief, error.remedy, details=details)


class BootEnded(Exception):
    """The guest was restarted while we waited for it: plan again."""


class _Watched:
    """Progress that also looks, now and then, whether what we wait for is still there.

    `error` is what such a look raised, to tell it from the errors of the one who waits.
    """

    def __init__(self, progress: Progress, look: Callable[[], None], now: Callable[[], float]) -> None:
        self._progress = progress
        self._look = look
        self._now = now
        self._looked_at = now()
        self.error: OperationalError | None = None

    def tell(self, message: str, *, done: float | None = None) -> None:
        self._progress.tell(message, done=done)

    def check_cancelled(self) -> None:
        self._progress.check_cancelled()
        if self._now() - self._looked_at >= _LOOK_EVERY_S:
            try:
                self._look()
            except OperationalError as error:
                self.error = error
                raise
            self._looked_at = self._now()


def describe_probe(probe: ProbeSpec) -> str:
    """A probe in a few words: `http :80/health`, `tcp :22`, `exec pg_isready`."""
    match probe.kind:
        case ProbeKind.TCP:
            return f"tcp :{probe.port}"
        case ProbeKind.HTTP:
            return f"http :{probe.port}{probe.path}"
        case ProbeKind.EXEC:
            return f"exec {probe.command.splitlines()[0][:40] if probe.command else ''}"
