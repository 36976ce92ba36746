"""One cut of several machines: prepared together, frozen together, let go together; or nothing of it.

Whatever fails, machines that ran run again before the error is told; and should this process die, the guard sees to
that from the note.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError

import structlog

from forkbed.base.errors import Kind, OperationalError
from forkbed.base.ids import MachineId, SnapshotId
from forkbed.drivers.libvirt.freezing import MachineFreeze
from forkbed.drivers.libvirt.memories import Memories
from forkbed.drivers.libvirt.pauses import Pause, PausedMachine, Pauses, Phase
from forkbed.drivers.libvirt.releasing import CallLibvirt, Release
from forkbed.ports.cuts import CutOutcome
from forkbed.ports.progress import Progress

_FREEZE_LIMIT_S = 5.0
_QUIESCE_LIMIT_S = 6.0
_HOLD_LIMIT_S = 120.0
_SLOWEST_WRITING = 20 * 1024**2  # bytes a second
_PREPARE_LIMIT_S = 900.0
_STAGE_LIMIT_S = 30.0
_UNDO_S = 8.0
_TELL_S = 0.5
_LOOK_AGAIN_S = 0.02
_log = structlog.get_logger(__name__)


class GroupCut:
    """`ports.cuts.Cut`, and how it is made: `make` once, then the rest."""

    def __init__(  # noqa: PLR0913  the parts it is put together from
        self,
        snapshot_id: SnapshotId,
        machines: Sequence[MachineFreeze],
        memories: Memories,
        pauses: Pauses,
        call: CallLibvirt,
        ensure_guard: Callable[[], None],
        *,
        hold: bool,
        quiesce: bool,
        hold_limit_s: float,
    ) -> None:
        self._snapshot_id = snapshot_id
        self._machines = machines
        self._memories = memories
        self._pauses = pauses
        self._call = call
        self._ensure_guard = ensure_guard
        self._hold = hold
        self._hold_limit_s = hold_limit_s
        self._quiesce = quiesce
        self._pause: Pause | None = None
        self._barrier = threading.Barrier(len(machines))
        self._streams: list[Future[None]] = []
        self._unsettled = 0
        self._lock = threading.Lock()

    @property
    def outcomes(self) -> Sequence[CutOutcome]:
        return [machine.outcome() for machine in self._machines]

    def make(self, before_freeze: Callable[[], None]) -> None:
        """Prepare, freeze, cut, let go. Raises the first error, after undoing what was done."""
        try:
            self._each(lambda m: m.look(), _STAGE_LIMIT_S)
            self._await_others()
            self._note(self._limit_s(writing=self._hold))
            self._prepare()
            before_freeze()
            self._freeze()
        except BaseException as error:
            if self._undo(str(error)) and isinstance(error, OperationalError):
                raise self._too_late() from error
            raise

    def await_memory(self, progress: Progress) -> Mapping[MachineId, int]:
        """Wait for the streams. See `ports.cuts`."""
        for stream in self._streams:
            while True:
                try:
                    stream.result(_TELL_S)
                    break
                except FutureTimeoutError:
                    progress.tell("the memory of the cut is being written")
        return {m.order.machine_id: m.memory_bytes for m in self._machines if m.order.memory}

    def resume(self) -> None:
        """Let go what the cut holds; nothing if it holds nothing any more."""
        assert self._pause is not None
        if self._pause.phase is not Phase.FROZEN:
            return
        try:
            if not (self._is_written and all(m.is_clear for m in self._machines) and self._let_go_on()):
                self._break_off()
        finally:
            wait(self._streams, _STAGE_LIMIT_S)
            self._close()

    def give_up(self) -> None:
        """The held machines will not go on. CONFLICT if somebody let them go on already."""
        assert self._pause is not None
        for stream in self._streams:
            stream.result()
        gone = self._pause.phase is Phase.FROZEN and self._pause.move(Phase.GIVEN_UP)
        self._close()
        if not gone:
            raise OperationalError(
                Kind.CONFLICT,
                f"snapshot {self._snapshot_id}",
                "the machines were let go on, because they had stood still for too long",
                "try again",
            )

    @property
    def _is_written(self) -> bool:
        """Whether no memory is on its way any more."""
        return all(stream.done() for stream in self._streams)

    def _let_go_on(self) -> bool:
        """Resume what is held; whether that went well."""
        assert self._pause is not None
        try:
            self._each(lambda m: m.resume(), _STAGE_LIMIT_S)
            self._thaw()
        except OperationalError as error:  # libvirtd was restarted meanwhile, say
            _log.info("cut.resume-again", error=str(error))
            return False
        self._pause.remove()
        return True

    def _break_off(self) -> None:
        """Have the machines go on whatever QEMU is at. At the end of a stream it would stop them once more."""
        assert self._pause is not None
        if not self._is_written:
            for machine in self._machines:
                machine.abandon("the machines were let go on before it was complete")
        if self._pause.move(Phase.RELEASE) and not self._release():
            raise OperationalError(
                Kind.UNREACHABLE,
                f"snapshot {self._snapshot_id}",
                "the machines that it held do not go on yet",
                "they will as soon as libvirt answers: `forkbed doctor`",
            )

    def _await_others(self) -> None:
        """What an earlier cut left in QEMU is cleared by others: not while we set it up."""
        for machine in self._machines:
            self._memories.await_settled(machine.order.machine_id)
        uuids = {machine.uuid for machine in self._machines}
        deadline = time.monotonic() + _PREPARE_LIMIT_S
        while self._pauses.concern(uuids):
            self._ensure_guard()
            if time.monotonic() > deadline:
                raise OperationalError(
                    Kind.BUSY,
                    f"snapshot {self._snapshot_id}",
                    "an earlier cut of these machines is still being cleared up",
                    "try again later",
                )
            time.sleep(_LOOK_AGAIN_S)

    def _prepare(self) -> None:
        guard: Future[None] = _in_thread(self._ensure_guard)
        self._each(lambda m: m.prepare(self._memories, self._snapshot_id), _PREPARE_LIMIT_S)
        guard.result(_PREPARE_LIMIT_S)
        if not self._hold and any(m.runs and m.order.memory and not m.streams for m in self._machines):
            former = self._pause
            self._note(self._limit_s(writing=True))  # they stand still longer than was noted
            assert former is not None
            former.remove()

    def _freeze(self) -> None:
        self._move(Phase.FROZEN)
        self._each(lambda m: m.quiesce(), _STAGE_LIMIT_S)
        self._each(self._freeze_one, _STAGE_LIMIT_S)
        if self._hold:
            kept = [m for m in self._machines if m.order.memory]
            self._streams = [_in_thread(lambda m=m: self._stream_held(m)) for m in kept]  # type: ignore[misc]
            return
        still = [m for m in self._machines if m.order.memory and not m.streams and m.runs]
        self._each(lambda m: m.stream_out(), _PREPARE_LIMIT_S, still)
        self._thaw()
        self._move(Phase.STANDBY)
        self._settle(still)
        rest = [m for m in self._machines if m.order.memory and m not in still]
        self._unsettled = len(rest)
        self._streams = [_in_thread(lambda m=m: self._stream_out(m)) for m in rest]  # type: ignore[misc]
        wait([stream for m, stream in zip(rest, self._streams, strict=True) if not m.streams])
        if not rest:
            self._finish()

    def _thaw(self) -> None:
        """Where an agent does not answer, go on asking in the background: it may yet freeze what it was asked to."""
        asked: list[MachineFreeze] = []
        self._each(lambda m: None if m.thaw() else asked.append(m), _STAGE_LIMIT_S)
        if asked:
            pause = self._pauses.write(
                f"thaw after snapshot {self._snapshot_id}",
                [PausedMachine(m.uuid, runs=False, streams=False, thaw=True) for m in asked],
                _FREEZE_LIMIT_S,
            )
            pause.move(Phase.RELEASE)
            _in_thread(Release(pause, self._call).run)

    def _freeze_one(self, machine: MachineFreeze) -> None:
        try:
            machine.freeze()
            self._barrier.wait(_FREEZE_LIMIT_S)  # nobody goes on before all stand still
        except threading.BrokenBarrierError as error:
            raise OperationalError(
                Kind.BUSY, machine.subject, "another machine could not be frozen together with it"
            ) from error
        except BaseException:
            self._barrier.abort()
            raise
        machine.cut()

    def _stream_held(self, machine: MachineFreeze) -> None:
        try:
            machine.stream_out()
        finally:
            self._settle([machine])

    def _stream_out(self, machine: MachineFreeze) -> None:
        try:
            machine.stream_out()
        finally:
            self._settle([machine])
            with self._lock:
                self._unsettled -= 1
                last = self._unsettled == 0
            if last:
                self._finish()
            if machine.streams and machine.is_large:
                _in_thread(machine.gather_pages)

    def _finish(self) -> None:
        """The last stream is over. Should one have left something in QEMU, it is cleared in the background."""
        assert self._pause is not None
        if all(m.is_clear for m in self._machines):
            self._pause.remove()
        else:
            _in_thread(Release(self._pause, self._call).run)
        self._close()

    def _undo(self, reason: str) -> bool:
        """Have all run as before; returns whether the guard was there first."""
        late = False
        self._barrier.abort()
        for machine in self._machines:
            machine.abandon(reason)
        self._settle(self._machines)
        if self._pause is not None:
            late = self._pause.phase is Phase.FROZEN and not self._pause.move(Phase.RELEASE)
            self._release()
        self._close()
        return late

    def _release(self) -> bool:
        """Have all run again; returns whether that is so. What is left to do then is done in the background."""
        assert self._pause is not None
        release = Release(self._pause, self._call)
        done = _in_thread(release.run)
        deadline = time.monotonic() + _UNDO_S
        while not (done.done() or release.all_run) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_S)
        return done.done() or release.all_run

    def _note(self, limit_s: float) -> None:
        machines = [
            PausedMachine(m.uuid, runs=m.runs, streams=m.order.memory, thaw=m.quiesces)
            for m in self._machines
        ]
        self._pause = self._pauses.write(purpose_of(self._snapshot_id), machines, limit_s)

    def _limit_s(self, *, writing: bool) -> float:
        """How long machines may stand still before the guard takes it that we have hung."""
        limit = _FREEZE_LIMIT_S + (_QUIESCE_LIMIT_S if self._quiesce else 0)
        if writing:
            limit += (
                _HOLD_LIMIT_S
                + self._hold_limit_s
                + sum(m.limit_bytes for m in self._machines) / _SLOWEST_WRITING
            )
        return limit

    def _move(self, phase: Phase) -> None:
        assert self._pause is not None
        if not self._pause.move(phase):
            raise self._too_late()

    def _too_late(self) -> OperationalError:
        return OperationalError(
            Kind.FAULT,
            f"snapshot {self._snapshot_id}",
            "the machines stood still for too long, and the guard let them go on",
            "look at how busy the host is, and try again",
        )

    def _settle(self, machines: Sequence[MachineFreeze]) -> None:
        for machine in machines:
            if machine.memory is not None:
                self._memories.settle(self._snapshot_id, machine.order.machine_id)

    def _close(self) -> None:
        for machine in self._machines:
            machine.close()

    def _each(
        self,
        action: Callable[[MachineFreeze], None],
        limit_s: float,
        machines: Sequence[MachineFreeze] | None = None,
    ) -> None:
        """Do it with all machines at the same time; raises the error that tells most, once all have ended."""
        machines = self._machines if machines is None else machines
        futures = [_in_thread(lambda m=m: action(m)) for m in machines]  # type: ignore[misc]
        if wait(futures, limit_s).not_done:
            raise OperationalError(
                Kind.UNREACHABLE,
                f"snapshot {self._snapshot_id}",
                f"libvirt gave no answer for {limit_s:g} s",
                "`forkbed doctor` tells how libvirt is",
            )
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: getattr(error, "kind", None) is Kind.BUSY):
            raise error


def purpose_of(snapshot_id: SnapshotId) -> str:
    """What the note of a cut for that snapshot says."""
    return f"snapshot {snapshot_id}"


def _in_thread(function: Callable[[], None]) -> Future[None]:
    """Run it in a thread that does not keep the process from ending."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="cut", daemon=True).start()
    return future
