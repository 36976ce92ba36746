"""What may stand in a manifest, key by key. The JSON Schema and every message about a single value come from here.

Only shapes and single values are checked here; what must fit together is `forkbed.core.systems.check`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from forkbed.base.words import quoted
from forkbed.config.fields import (
    Count,
    FileMode,
    FilledText,
    Flag,
    FormatVersion,
    GuestPath,
    HttpStatus,
    Line,
    Name,
    Owner,
    Port,
    Seconds,
    Shorthand,
    SizeBytes,
    Strict,
    Text,
    refuse,
    text_of,
)
from forkbed.config.variables import NO_VALUE
from forkbed.core.systems.spec import LOOPBACK, Ipv6Policy, Protocol, RestartPolicy, SetupWhen

DEFAULT_CPUS = 1
DEFAULT_MEMORY_BYTES = 256 * 1024**2

_KEY_TYPES = (
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
)
_PUBLIC_KEY = re.compile(_KEY_TYPES + r" [A-Za-z0-9+/]{16,}={0,3}( .*)?")
_CLOUD_INIT_HEADS = (
    "#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "## template: jinja", "Content-Type:",
    "MIME-Version:",
)  # fmt: skip
_PUBLISH = re.compile(r"(?:([^:/]+):)?([^:/]+):([^:/]+)(?:/(.+))?")


def public_key_problem(text: str) -> PydanticCustomError | None:
    """What is wrong with a line that should be an OpenSSH public key, or None."""
    if _PUBLIC_KEY.fullmatch(text.strip()):
        return None
    if "PRIVATE KEY" in text:
        return refuse("this is a private key", "give the public one, from the file that ends in .pub")
    return refuse(f"{quoted(text)} is not a public key", "a line such as `ssh-ed25519 AAAA… me@here`")


def _subnet(written: object) -> object:
    value = text_of(written)
    try:
        if "/" not in value:
            raise ValueError("no prefix length")
        return IPv4Network(value)
    except ValueError as error:
        if "host bits" in str(error):
            right = str(IPv4Network(value, strict=False))
            raise refuse(
                f"{quoted(value)} is an address with a length, not a subnet", f"write {right}"
            ) from None
        right = "an IPv4 network with its prefix length, such as 10.1.0.0/24"
        raise refuse(f"{quoted(value)} is not a subnet", right) from None


def _address(written: object) -> object:
    value = text_of(written)
    try:
        return IPv4Address(value)
    except ValueError:
        raise refuse(f"{quoted(value)} is not an address", "an IPv4 address such as 10.1.0.5") from None


def _mac(written: object) -> object:
    value = text_of(written)
    text = value.lower().replace("-", ":")
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        raise refuse(f"{quoted(value)} is not a MAC address", "six pairs such as 52:54:00:12:34:56")
    return text


def _uplink(written: object) -> object:
    value = text_of(written)
    if value in ("none", "nat") or re.fullmatch(r"bridge:[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", value):
        return value
    right = "`none`, `nat`, or `bridge:NAME` with the name of a bridge of the host"
    raise refuse(f"{quoted(value)} is not an uplink", right)


def _account(written: object) -> object:
    value = text_of(written)
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", value):
        right = "small letters, digits, `-` and `_`, beginning with a letter, at most 32"
        raise refuse(f"{quoted(value)} cannot be the name of an account", right)
    return value


def _variable(written: object) -> object:
    value = text_of(written)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise refuse(f"{quoted(value)} cannot name a variable", "letters, digits and `_`")
    return value


def _image(written: object) -> object:
    value = text_of(written)
    if not value.isprintable() or not value or " " in value:
        raise refuse(f"{quoted(value)} is not an image", "a name with a tag such as `debian:dev`, or an id")
    return value


Subnet = Annotated[
    IPv4Network, BeforeValidator(_subnet), WithJsonSchema({"type": "string", "examples": ["10.1.0.0/24"]})
]
Address = Annotated[
    IPv4Address, BeforeValidator(_address), WithJsonSchema({"type": "string", "examples": ["10.1.0.5"]})
]
Mac = Annotated[
    str, BeforeValidator(_mac), WithJsonSchema({"type": "string", "examples": ["52:54:00:12:34:56"]})
]
Uplink = Annotated[
    str,
    BeforeValidator(_uplink),
    WithJsonSchema({
        "anyOf": [{"enum": ["none", "nat"]}, {"type": "string", "pattern": r"^(bridge:|.*\$\{)"}],
        "examples": ["none", "nat", "bridge:br0"],
    }),
]  # fmt: skip
Account = Annotated[
    str,
    BeforeValidator(_account),
    WithJsonSchema({"type": "string", "pattern": "^[a-z_][a-z0-9_-]{0,31}$"}),
]
VariableName = Annotated[
    str,
    BeforeValidator(_variable),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}),
]
Default = Annotated[
    str | None,
    BeforeValidator(lambda value: None if value is NO_VALUE else text_of(value)),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"]}),
]
ImageReference = Annotated[str, BeforeValidator(_image)]


class Network(Strict):
    """A layer-2 segment with a subnet. Its first host address belongs to Forkbed: gateway, DHCP and DNS."""

    subnet: Subnet = Field(description="IPv4 subnet with its prefix length.")
    uplink: Uplink = Field(
        "none",
        description="Where it leads besides its machines: `none`, `nat` (out through the host), or `bridge:NAME` "
        "(joined to a bridge of the host).",
    )
    ipv6: Ipv6Policy = Field(
        Ipv6Policy.BLOCK,
        description="`block`: no IPv6; `link-local`: between the machines of this network only.",
    )


class Volume(Strict):
    """A data disk that lives as long as its machine is declared."""

    size: SizeBytes = Field(description="Size; may grow later, shrinking needs `--destroy`.")
    mount: GuestPath | None = Field(
        None, description="Where the guest mounts it; a blank volume gets a file system first."
    )
    filesystem: Literal["ext4", "xfs"] = Field("ext4", description="File system for a blank volume.")


class Nic(Shorthand):
    """A network card. The name of a network alone stands for `{network: NAME}`."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {"type": "string", "description": "Name of a network."}

    network: Name | None = Field(None, description="The network; may be left out if there is only one.")
    address: Address | None = Field(
        None, description="Fixed IPv4 address; without it one is chosen once and kept."
    )
    mac: Mac | None = Field(None, description="Fixed MAC address; without it it follows from the address.")

    @classmethod
    def from_text(cls, text: str) -> dict[str, object]:
        return {"network": text}


class Publish(Shorthand):
    """A port of the host whose connections go to the machine: `8080:80`, `127.0.0.1:8080:80/tcp`, or spelled out."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {
        "type": "string",
        "description": "[HOST-ADDRESS:]HOST-PORT:MACHINE-PORT[/PROTOCOL]",
        "examples": ["8080:80", "127.0.0.1:8080:80/tcp"],
    }

    host_port: Port = Field(description="Port on the host.")
    machine_port: Port = Field(description="Port of the machine.")
    protocol: Protocol = Field(Protocol.TCP, description="`tcp` or `udp`.")
    host_address: Address = Field(
        LOOPBACK, description="Address of the host; 0.0.0.0 for all, which others can reach too."
    )

    @classmethod
    def from_text(cls, text: str) -> dict[str, object]:
        match = _PUBLISH.fullmatch(text)
        if match is None:
            right = "HOST-PORT:MACHINE-PORT, such as 8080:80 or 127.0.0.1:8080:80/tcp"
            raise refuse(f"{quoted(text)} does not publish a port", right)
        keys = ("host_address", "host_port", "machine_port", "protocol")
        return {key: part for key, part in zip(keys, match.groups(), strict=True) if part is not None}


class File(Strict):
    """A file put into the guest; its bytes belong to the revision."""

    path: GuestPath = Field(description="Where it goes in the guest.")
    source: Line | None = Field(None, description="A local file, relative to the manifest.")
    content: Text | None = Field(None, description="The content itself, instead of `source`.")
    mode: FileMode = Field(
        0o644, description='Octal mode, such as "0644".', json_schema_extra={"default": "0644"}
    )
    owner: Owner = Field("root:root", description="`user` or `user:group`; both must exist in the guest.")

    @model_validator(mode="after")
    def _one_origin(self) -> File:
        if (self.source is None) == (self.content is None):
            wrong = "neither `source` nor `content`" if self.source is None else "both `source` and `content`"
            raise refuse(wrong, "say with one of them where the bytes come from")
        return self


class Secret(Strict):
    """A file put into the guest whose bytes are kept apart and never shown."""

    path: GuestPath = Field(description="Where it goes in the guest.")
    source: Line = Field(description="A local file, relative to the manifest.")
    mode: FileMode = Field(
        0o600, description='Octal mode, such as "0600".', json_schema_extra={"default": "0600"}
    )
    owner: Owner = Field("root:root", description="`user` or `user:group`; both must exist in the guest.")


class Key(Shorthand):
    """A public key: the line itself, or `{source: FILE}`."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {
        "type": "string",
        "description": "An OpenSSH public key.",
        "examples": ["ssh-ed25519 AAAA… me@here"],
    }

    key: Text | None = Field(None, description="An OpenSSH public key in one line.")
    source: Line | None = Field(None, description="A local file with public keys, relative to the manifest.")

    @classmethod
    def from_text(cls, text: str) -> dict[str, object]:
        return {"key": text}

    @model_validator(mode="after")
    def _one_good_origin(self) -> Key:
        if (self.key is None) == (self.source is None):
            raise refuse(
                "a key needs exactly one of `key` and `source`", "write the public key, or {source: FILE}"
            )
        problem = public_key_problem(self.key) if self.key is not None else None
        if problem is not None:
            raise problem
        return self


class User(Strict):
    """A log-in account made in the guest."""

    keys: tuple[Key, ...] = Field((), description="Public keys that may log in.")
    groups: tuple[Account, ...] = Field((), description="Further groups of the account.")
    sudo: Flag = Field(False, description="Whether it may become root by `sudo` without a password.")
    shell: GuestPath = Field("/bin/sh", description="Its log-in shell.")


class Ssh(Strict):
    """Who may log in, besides Forkbed itself."""

    keys: tuple[Key, ...] = Field((), description="Public keys that may log in as root.")
    users: dict[Account, User] = Field({}, description="Accounts to make, by name.")


class CloudInit(Shorthand):
    """User-data for cloud-init: the text, or `{source: FILE}`."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {
        "type": "string",
        "description": "User-data as cloud-init takes it, with its first line (`#cloud-config`).",
    }

    text: FilledText | None = Field(None, description="The user-data itself.")
    source: Line | None = Field(None, description="A local file, relative to the manifest.")

    @classmethod
    def from_text(cls, text: str) -> dict[str, object]:
        return {"text": text}

    @model_validator(mode="after")
    def _one_good_origin(self) -> CloudInit:
        if (self.text is None) == (self.source is None):
            raise refuse("user-data needs exactly one of `text` and `source`", "write one of them")
        problem = user_data_problem(self.text) if self.text is not None else None
        if problem is not None:
            raise problem
        return self


def user_data_problem(text: str) -> PydanticCustomError | None:
    """What is wrong with cloud-init user-data, or None."""
    if text.startswith(_CLOUD_INIT_HEADS):
        return None
    return refuse(
        "the first line does not tell cloud-init what this is", "begin with `#cloud-config` or `#!`"
    )


class Setup(Shorthand):
    """A shell command run in the guest as root before its `ready` probes. Text alone stands for `{run: TEXT}`."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {"type": "string", "description": "A shell command."}

    run: FilledText = Field(description="The command, for /bin/sh.")
    when: SetupWhen = Field(
        SetupWhen.ONCE,
        description="`once` in the life of the root volume (again if the command changes), or at each `boot`.",
    )
    timeout: Seconds = Field(300.0, description="How long it may take.", json_schema_extra={"default": "5m"})

    @classmethod
    def from_text(cls, text: str) -> dict[str, object]:
        return {"run": text}


class HttpProbe(Shorthand):
    """An HTTP GET. A port alone stands for `{port: PORT}`."""

    shorthand_schema: ClassVar[Mapping[str, Any]] = {"type": ["integer", "string"], "description": "A port."}

    port: Port = Field(description="Port of the machine.")
    path: Line = Field("/", description="Path with query.")
    status: HttpStatus = Field(200, description="The status that is right.")

    @classmethod
    def from_text(cls, text: str) -> dict[str, object]:
        return {"port": text}

    @model_validator(mode="after")
    def _path_is_absolute(self) -> HttpProbe:
        if not self.path.startswith("/") or " " in self.path:
            raise refuse(f"{quoted(self.path)} is not the path of a URL", "begin it with `/`, without spaces")
        return self


class Probe(Strict):
    """A question to a machine; exactly one of `tcp`, `http` and `exec`."""

    tcp: Port | None = Field(None, description="This port accepts a connection.")
    http: HttpProbe | None = Field(None, description="This request gets the right status.")
    command: FilledText | None = Field(
        None, alias="exec", description="This shell command, run in the guest as root, exits with 0."
    )
    interval: Seconds = Field(
        0.5, description="Time between two tries.", json_schema_extra={"default": "500ms"}
    )
    timeout: Seconds = Field(
        120.0, description="Time for all tries together.", json_schema_extra={"default": "2m"}
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        given = [kind for kind in (self.tcp, self.http, self.command) if kind is not None]
        if len(given) != 1:
            raise refuse(
                "a probe needs exactly one of `tcp`, `http` and `exec`",
                "such as `tcp: 22`; one entry for each",
            )
        return self


class Maintenance(Strict):
    """Commands that keep a machine's users off, and those that let them back."""

    on: tuple[FilledText, ...] = Field((), description="Run in the guest, in order, when maintenance begins.")
    off: tuple[FilledText, ...] = Field((), description="Run in the guest, in order, when it ends.")


class Machine(Strict):
    """A virtual machine."""

    image: ImageReference = Field(
        description="What its root volume begins as: a name with a tag, or an id.", examples=["debian:dev"]
    )
    cpus: Count = Field(DEFAULT_CPUS, description="Virtual CPUs.")
    memory: SizeBytes = Field(
        DEFAULT_MEMORY_BYTES, description="Memory.", json_schema_extra={"default": "256MiB"}
    )
    root: SizeBytes | None = Field(
        None, description="Size of the root volume, at least the image's; the file system grows with it."
    )
    volumes: dict[Name, Volume] = Field({}, description="Data disks, by name.")
    nics: tuple[Nic, ...] | None = Field(
        None, description="Network cards, in order; without it one on the only network."
    )
    publish: tuple[Publish, ...] = Field((), description="Ports of the host that lead to the machine.")
    files: tuple[File, ...] = Field((), description="Files put into the guest.")
    secrets: tuple[Secret, ...] = Field((), description="Secret files put into the guest.")
    ssh: Ssh = Field(Ssh(), description="Keys and accounts.")
    cloud_init: CloudInit | None = Field(None, description="User-data for images with cloud-init.")
    setup: tuple[Setup, ...] = Field((), description="Commands run in the guest, in order.")
    after: tuple[Name, ...] = Field(
        (), description="Machines that must be ready before this one starts; it stops before them."
    )
    ready: tuple[Probe, ...] = Field((), description="When the machine counts as ready: all must pass.")
    checks: tuple[Probe, ...] = Field(
        (), description="What holds when the machine does its work; `up` asks them at its end."
    )
    restart: RestartPolicy = Field(
        RestartPolicy.ALWAYS, description="Whether to start it again when it stopped by itself."
    )
    maintenance: Maintenance = Field(
        Maintenance(), description="What `maintenance` and `promote` do in the guest before and after."
    )


class Manifest(Strict):
    """A system: machines, networks and volumes."""

    version: FormatVersion = Field(description="Version of this format.")
    system: Name = Field(description="The system's name.")
    variables: dict[VariableName, Default] = Field(
        {},
        description="Values to write elsewhere as `${name}` (`$${` stands for `${`). `--set NAME=VALUE` wins; "
        "a variable without a value here must be set so.",
    )
    networks: dict[Name, Network] = Field({}, description="Networks, by name.")
    machines: dict[Name, Machine] = Field(description="Machines, by name.")
    labels: dict[Line, Text] = Field({}, description="Free words for people and programs.")
