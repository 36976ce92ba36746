"""Put the installation together: the only module that knows which driver stands behind which port."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from forkbed import __version__
from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import DrawId, InstallationId, draw_id, draw_uuid
from forkbed.config.settings import Settings
from forkbed.drivers.capacity import LinuxCapacity
from forkbed.drivers.clock import SystemClock
from forkbed.drivers.contents import FileContents
from forkbed.drivers.doctor.acceleration import Accelerator, prove_acceleration
from forkbed.drivers.durable import write_durably
from forkbed.drivers.filesystems.appliance import Appliance
from forkbed.drivers.filesystems.driver import HostDisks
from forkbed.drivers.guests.driver import GuestSettings, RealGuests
from forkbed.drivers.images.library import HostImageLibrary
from forkbed.drivers.libvirt.cuts import LibvirtCuts
from forkbed.drivers.libvirt.hypervisor import LibvirtHypervisor, LibvirtSettings
from forkbed.drivers.networks.linux import LinuxNetworks
from forkbed.drivers.sidecars import FileSidecars
from forkbed.drivers.simulated.capacity import SimulatedCapacity
from forkbed.drivers.simulated.comparisons import SimulatedDisks
from forkbed.drivers.simulated.cuts import SimulatedCuts
from forkbed.drivers.simulated.guests import SimulatedGuests
from forkbed.drivers.simulated.hypervisor import SimulatedHypervisor
from forkbed.drivers.simulated.images import SimulatedImages
from forkbed.drivers.simulated.storage import SimulatedContents, SimulatedNetworks, SimulatedSidecars
from forkbed.drivers.simulated.volumes import SimulatedVolumes
from forkbed.drivers.simulated.world import SimulatedWorld
from forkbed.drivers.volumes.overlays import OverlayVolumes
from forkbed.engine.controller import Controller
from forkbed.engine.host import Host
from forkbed.engine.hub import Hub
from forkbed.engine.options import Options
from forkbed.engine.surroundings import Boundary, Surroundings
from forkbed.store.database import Database

STEP_THREADS = 64  # most of them wait for guests
WAITING_THREADS = 1024  # one for each fork that is being made; they only wait
KILL_VARIABLE = "FORKBED_FAULT_KILL_AT"
"""Fault injection for tests: kill this process at the step boundary of that name, such as `start boss: done`."""


@contextmanager
def installation(settings: Settings, *, simulate: bool = False) -> Iterator[Controller]:
    """The installation with its controller running; at the end it stops, and machines run on.

    Raises CONFLICT if another controller serves the same state directory. With `simulate` everything is in
    memory and gone at the end.
    """
    with ExitStack() as stack:
        if simulate:
            store = Database(None, draw_id)
            host = _simulated_host()
        else:
            _prepare_directories(settings)
            stack.enter_context(_alone(settings.state_dir / "controller.lock"))
            store = Database(settings.state_dir / "forkbed.db", _kept_draw(settings.state_dir))
            host = _real_host(settings, store.installation_id(), stack)
        stack.callback(store.close)
        executor = ThreadPoolExecutor(STEP_THREADS, thread_name_prefix="step")
        stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        waiters = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="wait")
        stack.callback(waiters.shutdown, wait=False, cancel_futures=True)
        boundary = _boundary(os.environ.get(KILL_VARIABLE, ""))
        around = Surroundings(host, store, Hub(), executor, waiters, boundary)
        about = {"version": __version__, "simulated": simulate}
        kept_in_memory_s = settings.kept_in_memory.total_seconds()
        options = Options(settings.transit_pool, draw_id, draw_uuid, about, kept_in_memory_s)
        controller = Controller(around, options)
        controller.start()
        stack.callback(controller.stop)
        yield controller


def _real_host(settings: Settings, installation_id: InstallationId, stack: ExitStack) -> Host:

    def has_kvm() -> bool:
        return prove_acceleration(settings.cache_dir).accelerator is Accelerator.KVM

    has_kvm()  # the proof may take seconds: rather now than while a system comes up
    hypervisor = LibvirtHypervisor(
        LibvirtSettings(
            installation=installation_id,
            uri=settings.libvirt_uri,
            has_kvm=has_kvm,
            console_dir=settings.state_dir / "consoles",
        )
    )
    stack.callback(hypervisor.close)
    networks = LinuxNetworks(installation_id, settings.runtime_dir, settings.state_dir, settings.transit_pool)
    guests = RealGuests(
        GuestSettings(installation_id, settings.state_dir, settings.runtime_dir),
        namespace=networks.namespace,
        ask_agent=hypervisor.agent_command,
    )
    volumes = OverlayVolumes(settings.state_dir / "volumes")
    return Host(
        name=platform.node(),
        clock=SystemClock(),
        capacity=LinuxCapacity(),
        hypervisor=hypervisor,
        cuts=LibvirtCuts(hypervisor, settings.state_dir),
        networks=networks,
        recorder=networks,
        volumes=volumes,
        volume_cuts=volumes,
        disks=HostDisks(Appliance(settings.cache_dir / "appliance", lambda: not has_kvm())),
        images=HostImageLibrary(settings.state_dir, settings.cache_dir, settings.build_network_namespace),
        guests=guests,
        awakening=guests,
        contents=FileContents(settings.state_dir),
        sidecars=FileSidecars(settings.state_dir / "sidecars"),
    )


def _simulated_host() -> Host:
    return simulated_host("simulated", SimulatedWorld(SystemClock(), boot_s=1.5))


def simulated_host(name: str, world: SimulatedWorld) -> Host:
    """A host whose every port works on the same simulated world."""
    networks, volumes, guests = SimulatedNetworks(world), SimulatedVolumes(world), SimulatedGuests(world)
    return Host(
        name=name,
        clock=world.clock,
        capacity=SimulatedCapacity(),
        hypervisor=SimulatedHypervisor(world),
        cuts=SimulatedCuts(world),
        networks=networks,
        recorder=networks,
        volumes=volumes,
        volume_cuts=volumes,
        disks=SimulatedDisks(world),
        images=SimulatedImages(world),
        guests=guests,
        awakening=guests,
        contents=SimulatedContents(world),
        sidecars=SimulatedSidecars(world),
    )


def _prepare_directories(settings: Settings) -> None:
    # QEMU may run as another user: it has to pass through to its disks, and may read nothing else
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    settings.state_dir.chmod(0o711)
    settings.runtime_dir.mkdir(parents=True, exist_ok=True)


def _kept_draw(state_dir: Path) -> DrawId:
    """Draws the installation id that a file beside the database remembers, or one for it to remember.

    So a new database, after the old one was lost, still knows the machines and networks as its own.
    """

    def draw(length: int) -> str:
        path = state_dir / "installation-id"
        if not path.exists():
            write_durably(path, draw_id(length).encode())
        return path.read_text().strip()

    return draw


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock that says that this is the only controller of the state directory."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperationalError(
                Kind.CONFLICT,
                str(path.parent),
                "another `forkbed serve` is at work here",
                "end that one first, or give this one a FORKBED_STATE_DIR of its own",
            ) from error
        yield


def _boundary(fatal: str) -> Boundary:
    """What hears of step boundaries: nothing, or a kill at the one that is asked for."""

    def die(name: str) -> None:
        if name == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def nothing(_name: str) -> None:
        return None

    chosen: Callable[[str], None] = die if fatal else nothing
    return chosen
