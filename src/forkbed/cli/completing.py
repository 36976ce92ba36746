"""Shell completion: scripts that ask `forkbed __complete WORDS…` for candidates, one a line.

Cheap: the commands come from a table, options from the one command's module, names from the server only where
a name is due, and a server that does not answer means no names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forkbed.base.errors import OperationalError
from forkbed.cli.invocation import begin, current

_GLOBAL = ("--json", "--socket", "--lab", "--help")
_SYSTEMS = frozenset({
    "down", "show", "history", "tree", "fold", "snapshot", "snapshots", "fork", "rehearse", "rehearsals", "diff",
    "revert", "generations", "maintenance",
})  # fmt: skip
_SYSTEMS_AND_SNAPSHOTS = frozenset({"rollback", "snapshot-delete"})
_FORKS = frozenset({"discard", "intents"})
_SYSTEMS_AND_MACHINES = frozenset({"start", "stop", "restart", "pause", "resume"})
_MACHINES = frozenset({"exec", "ssh", "console", "logs", "copy"})
_IMAGES = frozenset({"export", "show", "remove", "tag", "history"})
_FILES = frozenset({"plan", "up"})
FILES = "__files__"
"""The candidate that stands for the shell's own completion of file names."""

_BASH = r"""# bash completion of forkbed
_forkbed() {
    # The words as they were typed: bash itself would split at each colon of SYSTEM/MACHINE:PATH and NAME:CHANNEL.
    local line=${COMP_LINE:0:COMP_POINT} words current candidate candidates head files
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    mapfile -t candidates < <(forkbed __complete "${words[@]:1}" 2>/dev/null)
    head=${current%"${current##*:}"}
    COMPREPLY=()
    for candidate in "${candidates[@]}"; do
        if [[ $candidate == __files__ ]]; then
            mapfile -t files < <(compgen -f -- "${current##*:}")
            # Only for files: it would put a backslash before the colon of SYSTEM/MACHINE:.
            (( ${#files[@]} )) && compopt -o filenames 2>/dev/null
            COMPREPLY+=("${files[@]}")
        else
            [[ $candidate == *: ]] && compopt -o nospace 2>/dev/null
            COMPREPLY+=("${candidate#"$head"}")
        fi
    done
}
complete -F _forkbed forkbed
"""
_ZSH = """#compdef forkbed
_forkbed() {
    local -a candidates unfinished
    local failed=1
    candidates=(${(f)"$(forkbed __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${candidates[(I)__files__]} )); then
        candidates=(${candidates:#__files__})
        _files && failed=0
    fi
    # After SYSTEM/MACHINE: a path follows, not a space.
    unfinished=(${(M)candidates:#*:})
    candidates=(${candidates:#*:})
    (( $#unfinished )) && compadd -S '' -a unfinished && failed=0
    (( $#candidates )) && compadd -a candidates && failed=0
    return failed
}
if [ "$funcstack[1]" = "_forkbed" ]; then _forkbed; else compdef _forkbed forkbed; fi
"""
_FISH = """# fish completion of forkbed
function __forkbed_complete
    set -l words (commandline -opc) (commandline -ct)
    for candidate in (forkbed __complete $words[2..-1] 2>/dev/null)
        if test "$candidate" = __files__
            __fish_complete_path (commandline -ct)
        else
            echo $candidate
        end
    end
end
complete -c forkbed -f -a '(__forkbed_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def complete(words: Sequence[str]) -> int:
    """Print what may stand in place of the last of `words`, which may be empty."""
    *before, last = words or [""]
    try:
        begin(before)
        candidates = sorted(set(_candidates(list(current().tokens), last)))
    except OperationalError:
        return 0
    for candidate in candidates:
        if candidate == FILES or candidate.startswith(last):
            print(candidate)
    return 0


def _candidates(before: list[str], last: str) -> Iterable[str]:
    from forkbed.cli.main import COMMANDS

    if "--" in before:
        return (FILES,)
    if not before:
        return (*COMMANDS, *_GLOBAL)
    command = before[0]
    if last.startswith("-"):
        return (*_GLOBAL, *_options(before))
    if command in ("image", "operations") and len(before) == 1:
        return _subcommands(command)
    positional = [word for word in before[1:] if not word.startswith("-")]
    if before[-1] == "--at":
        return _snapshots(positional[0]) if positional else ()
    if before[-1] == "--show":
        return _rehearsals(positional[:1])
    if before[-1] == "--steps":
        return (FILES,)
    return (*_names(command, positional), *([FILES] if _takes_files(command, before) else []))


def _names(command: str, positional: list[str]) -> Iterable[str]:
    if command == "completion":
        return SCRIPTS
    if command == "operations":
        with current().client() as client:
            return [operation.id for operation in client.operations(limit=20)]
    if command == "image" and positional[:1] and positional[0] in _IMAGES:
        with current().client() as client:
            return [name for image in client.images() for name in (*image.names, image.id[:12])]
    if len(positional) == 1 and command in _SYSTEMS_AND_SNAPSHOTS:
        return _snapshots(positional[0])
    if command == "diff" and len(positional) == 1:
        return _systems(command)
    if command == "maintenance" and len(positional) == 1:
        return ("on", "off")
    if positional and command != "copy":
        return ()
    if command == "promote":
        with current().client() as client:
            systems = [system.name for system in client.systems() if not system.fork_of]
        return _rehearsals(systems)
    if command in _SYSTEMS | _SYSTEMS_AND_SNAPSHOTS | _SYSTEMS_AND_MACHINES | _MACHINES:
        return _systems(command)
    if command in _FORKS:
        with current().client() as client:
            return [system.name for system in client.systems() if system.fork_of]
    return ()


def _snapshots(system: str) -> Iterable[str]:
    with current().client() as client:
        return [snapshot.name for snapshot in client.snapshots(system)]


def _rehearsals(systems: Sequence[str]) -> Iterable[str]:
    with current().client() as client:
        return [rehearsal.name for system in systems for rehearsal in client.rehearsals(system)]


def _systems(command: str) -> Iterable[str]:
    with current().client() as client:
        systems = [system.name for system in client.systems()]
        machines = [
            f"{system}/{machine.name}{':' if command == 'copy' else ''}"
            for system in systems
            if command in _SYSTEMS_AND_MACHINES | _MACHINES
            for machine in client.system(system).machines
        ]
    return machines if command in _MACHINES else [*systems, *machines]


def _takes_files(command: str, before: list[str]) -> bool:
    return command in _FILES or command == "copy" or before[:2] in (["image", "build"], ["image", "import"])


def _subcommands(command: str) -> Iterable[str]:
    from forkbed.cli.main import make_app

    return [name for name in make_app(command)[command] if not name.startswith("-")]


def _options(before: list[str]) -> Iterable[str]:
    from forkbed.cli.main import make_app

    root = make_app(before[0])
    app = root[before[0]]
    if len(before) > 1 and before[1] in app:
        app = app[before[1]]
    return [
        name
        for argument in app.assemble_argument_collection(default_parameter=root.default_parameter)
        for name in argument.names
        if name.startswith("--")
    ]
