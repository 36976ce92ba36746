"""Debian packages for an image, by mmdebstrap, from the archives that this host itself uses.

No archive's address is written in Forkbed: the host's own sources decide. What was downloaded stays in the cache
directory, and when no archive answers, the same build works from there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forkbed.base.errors import OperationalError
from forkbed.drivers import processes
from forkbed.drivers.images.watched import run_contained
from forkbed.ports.progress import Progress

SUITE = "bookworm"
_APT = Path("/etc/apt")
_SUITES = frozenset({SUITE, f"{SUITE}-updates", f"{SUITE}-security", f"{SUITE}-backports"})
_NO_ANSWER = re.compile(
    r"apt-get update .*failed|Failed to fetch|Could not (resolve|connect)|Unable to connect|Temporary failure"
    r"|Network is unreachable"
)
_PASSED_ON = re.compile(r"Acquire::(https?|ftp|Retries|ForceIPv[46]|Check-Date|Check-Valid-Until)\b")


@dataclass(frozen=True, slots=True)
class AptEnvironment:
    """How a build reaches packages: its cache directory, and the network namespace to run in (None: this one)."""

    cache_dir: Path
    network_namespace: Path | None = None

    def prepare(self) -> Path:
        """The cache directory with what a build binds into its root file system."""
        for part in ("archives/partial", "lists/partial"):
            (self.cache_dir / part).mkdir(parents=True, exist_ok=True)
        return self.cache_dir

    def networked(self, argv: Sequence[processes.Argument]) -> tuple[processes.Argument, ...]:
        """`argv` where packages can be reached."""
        if self.network_namespace is None:
            return tuple(argv)
        return processes.in_network_namespace(self.network_namespace, argv)

    @property
    def has_lists(self) -> bool:
        """Whether package lists of an earlier build are there, to go on without an archive."""
        return any((self.cache_dir / "lists").glob("*Packages*"))


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What mmdebstrap shall make: `variant` of its own words, packages, and an archive unpacked before them."""

    variant: str
    packages: tuple[str, ...]
    overlay: Path | None = None


def bootstrap(wanted: Bootstrap, target: Path, *, apt: AptEnvironment, log: Path, progress: Progress) -> None:
    """Make the root file system `target` (it must not exist). Without an archive, from the cache if it can."""
    cache = apt.prepare()
    sources = target.with_name(target.name + ".sources.list")
    sources.write_text("".join(f"{line}\n" for line in host_sources()))
    try:
        _mmdebstrap(wanted, target, sources, cache, (), apt=apt, log=log, progress=progress)
    except OperationalError as error:
        if not (is_unreachable(error) and apt.has_lists):
            raise
        shutil.rmtree(target, ignore_errors=True)
        progress.tell("no archive answers; building from the cache")
        _mmdebstrap(wanted, target, sources, cache, ("--skip=update",), apt=apt, log=log, progress=progress)
    finally:
        sources.unlink()


def is_unreachable(error: OperationalError) -> bool:
    """Whether apt failed because no archive answered."""
    return any(_NO_ANSWER.search(line) for line in error.details)


def host_sources(apt_directory: Path = _APT) -> tuple[str, ...]:
    """The host's own sources for the suite, as lines of a sources.list; empty if it has none.

    Other vendors' archives on the host are left out.
    """
    lines: list[str] = []
    for path in (apt_directory / "sources.list", *sorted((apt_directory / "sources.list.d").glob("*"))):
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            lines += _from_deb822(path.read_text())
        elif path.suffix == ".list":
            lines += _from_one_line(path.read_text())
    return tuple(dict.fromkeys(lines))


def apt_configuration() -> tuple[str, ...]:
    """What the host's apt is told about reaching archives (proxies and the like), as configuration lines."""
    dump = processes.run(("apt-config", "dump", "--format", '%F "%v";%n', "Acquire"), subject="apt").text
    return tuple(line for line in dump.splitlines() if _PASSED_ON.match(line) and not line.endswith('"";'))


def _mmdebstrap(  # noqa: PLR0913
    wanted: Bootstrap,
    target: Path,
    sources: Path,
    cache: Path,
    extra: Sequence[str],
    *,
    apt: AptEnvironment,
    log: Path,
    progress: Progress,
) -> None:
    bind = "; ".join(
        f'mkdir -p "$1/{inside}" && mount --bind "{cache / part}" "$1/{inside}"'
        for part, inside in (("archives", "var/cache/apt/archives"), ("lists", "var/lib/apt/lists"))
    )
    argv: list[processes.Argument] = ["mmdebstrap", "--mode=root", "--format=directory"]
    argv += [f"--variant={wanted.variant}", f"--include={','.join(wanted.packages)}", "--architectures=amd64"]
    # Recommended packages and documentation are for machines that somebody lives on.
    argv += [
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={line}" for line in apt_configuration()),
    ]
    argv += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += ["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
    # Its clean-up of apt's directories would empty the cache that is mounted there.
    argv += ["--skip=essential/unlink,cleanup/apt", *extra, f"--setup-hook={bind}"]
    if wanted.overlay is not None:
        argv.append(f"--essential-hook=tar-in {wanted.overlay} /")
    argv += ["--", SUITE, target]
    if sources.stat().st_size:
        argv.append(sources)
    run_contained(apt.networked(argv), log=log, subject=f"Debian {SUITE}", progress=progress)


def _from_deb822(text: str) -> list[str]:
    lines = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed = fields.get("signed-by", "")
        option = f"[signed-by={signed}] " if signed.startswith("/") else ""
        lines += [
            _line(option, uri, suite, components)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
            if (components := _components(suite, fields.get("components", "").split()))
        ]
    return lines


def _from_one_line(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match and (components := _components(match[3], match[4].split())):
            lines.append(_line(match[1] or "", match[2], match[3], components))
    return lines


def _line(option: str, uri: str, suite: str, components: str) -> str:
    return f"deb {option}{uri} {suite} {components}"


def _components(suite: str, components: Sequence[str]) -> str:
    """The components to take from a source; none for a suite or an archive that is not Debian's."""
    return " ".join(components) if suite in _SUITES and "main" in components else ""
