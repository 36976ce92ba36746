"""What each key of a manifest means, what is said of wrong values, variables and local files."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from forkbed.config.local_files import LocalFiles, local_files
from forkbed.config.manifest import ParsedManifest, parse_manifest
from forkbed.config.problems import ManifestInvalid
from forkbed.core.systems.bundle import ManifestBundle
from forkbed.core.systems.spec import (
    FileSpec,
    MachineSpec,
    NetworkSpec,
    NicSpec,
    ProbeKind,
    ProbeSpec,
    Protocol,
    PublishSpec,
    RestartPolicy,
    SetupSpec,
    SetupWhen,
    UplinkKind,
    UserSpec,
    VolumeSpec,
)
from tests.unit.manifest.specs import KEY

HEAD = "version: 1\nsystem: shop\nnetworks: {n: {subnet: 10.1.0.0/24}}\n"


def parse(text: str, **given: dict[str, bytes] | dict[str, str]) -> ParsedManifest:
    return parse_manifest(ManifestBundle("m.yaml", text, **given))  # type: ignore[arg-type]


def machine(text: str, **given: dict[str, bytes] | dict[str, str]) -> MachineSpec:
    """The machine `a` with the keys in `text`."""
    return parse(f"{HEAD}machines: {{a: {{image: i, {text}}}}}\n", **given).spec.machines[0]


def refused(text: str, **given: dict[str, bytes] | dict[str, str]) -> list[str]:
    with pytest.raises(ManifestInvalid) as caught:
        parse(text, **given)
    return list(caught.value.details)


def wrong(text: str, **given: dict[str, bytes] | dict[str, str]) -> str:
    """The one problem of the machine `a` with the keys in `text`, without its place."""
    lines = refused(f"{HEAD}machines: {{a: {{image: i, {text}}}}}\n", **given)
    assert len(lines) == 1, lines
    return lines[0].split(": ", 1)[1].removeprefix("machines.a.")


def test_defaults() -> None:
    assert machine("") == MachineSpec("a", "i", 1, 256 * 1024**2, nics=(NicSpec("n"),))


def test_a_machine_with_everything() -> None:
    text = f"""
version: 1
system: shop
variables: {{tag: dev}}
networks:
  inside: {{subnet: 10.1.0.0/24, uplink: nat, ipv6: link-local}}
  office: {{subnet: 10.2.0.0/24, uplink: bridge:br0}}
labels: {{owner: me, tier: 1}}
machines:
  db: {{image: i, nics: []}}
  web:
    image: debian:${{tag}}
    cpus: 4
    memory: 1.5 GiB
    root: 10GB
    volumes:
      data: {{size: 1GiB, mount: /srv/data, filesystem: xfs}}
      raw: {{size: 2GiB}}
    nics:
      - inside
      - {{network: office, address: 10.2.0.9, mac: 52-54-00-AA-BB-CC}}
    publish: ["8080:80", 0.0.0.0:53:5353/udp, {{host_port: 1, machine_port: 2}}]
    files:
      - {{path: /etc/motd, content: "costs $${{HOME}} $5"}}
      - {{path: /opt/app, source: app.py, mode: 0755, owner: www-data}}
    secrets: [{{path: /etc/key, source: app.key, owner: "www-data:adm"}}]
    ssh:
      keys: ["{KEY}", {{source: me.pub}}]
      users: {{ann: {{keys: ["{KEY}"], groups: [adm], sudo: true, shell: /bin/bash}}}}
    cloud_init: |
      #cloud-config
      x: y
    setup: [first, {{run: second, when: boot, timeout: 1m}}]
    after: [db]
    ready: [{{tcp: 22}}, {{http: {{port: 80, path: /up, status: 204}}, timeout: 5m}}]
    checks: [{{exec: test -e /x, interval: 2s}}, {{http: 81}}]
    restart: never
"""
    parsed = parse(
        text,
        files={"app.py": b"print()", "me.pub": f"# mine\n{KEY} me\n\n{KEY} too\n".encode()},
        secrets={"app.key": b"hush"},
        variables={"tag": "production"},
    )
    spec = parsed.spec
    assert spec.networks[1] == NetworkSpec("office", IPv4Network("10.2.0.0/24"), UplinkKind.BRIDGE, "br0")
    assert spec.labels == (("owner", "me"), ("tier", "1"))
    web = spec.machine("web")
    assert (web.image, web.cpus) == ("debian:production", 4)
    assert web.memory_bytes == 1536 * 1024**2
    assert web.root_size_bytes == 9537 * 1024**2  # 10 GB, rounded up to whole MiB
    assert web.volumes == (VolumeSpec("data", 1 << 30, "/srv/data", "xfs"), VolumeSpec("raw", 2 << 30))
    assert web.nics == (
        NicSpec("inside"),
        NicSpec("office", IPv4Address("10.2.0.9"), "52:54:00:aa:bb:cc"),
    )
    assert web.publish == (
        PublishSpec(8080, 80),
        PublishSpec(53, 5353, Protocol.UDP, IPv4Address("0.0.0.0")),
        PublishSpec(1, 2),
    )
    motd, app = web.files
    assert parsed.files[motd.content_hash] == b"costs ${HOME} $5"
    assert app == FileSpec("/opt/app", app.content_hash, 0o755, "www-data:www-data")
    assert parsed.files[app.content_hash] == b"print()"
    assert (web.secrets[0].name, web.secrets[0].mode, web.secrets[0].owner) == (
        "app.key",
        0o600,
        "www-data:adm",
    )
    assert parsed.secrets == {"app.key": b"hush"}
    assert web.root_keys == (KEY, f"{KEY} me", f"{KEY} too")
    assert web.users == (UserSpec("ann", (KEY,), ("adm",), True, "/bin/bash"),)
    assert web.cloud_init == "#cloud-config\nx: y\n"
    assert web.setup == (SetupSpec("first"), SetupSpec("second", SetupWhen.BOOT, 60.0))
    assert web.after == ("db",)
    assert web.ready == (
        ProbeSpec(ProbeKind.TCP, port=22),
        ProbeSpec(ProbeKind.HTTP, 80, "/up", 204, timeout_s=300.0),
    )
    assert web.checks == (
        ProbeSpec(ProbeKind.EXEC, command="test -e /x", interval_s=2.0),
        ProbeSpec(ProbeKind.HTTP, port=81),
    )
    assert web.restart is RestartPolicy.NEVER


def test_a_secret_is_told_apart_only_with_the_key() -> None:
    text = f"{HEAD}machines: {{a: {{image: i, secrets: [{{path: /x, source: s}}]}}}}\n"

    def version(data: bytes, key: bytes) -> str:
        bundle = ManifestBundle("m", text, secrets={"s": data})
        return parse_manifest(bundle, secrets_key=key).spec.machines[0].secrets[0].version

    one, other = b"1" * 32, b"2" * 32
    assert version(b"x", one) == version(b"x", one)
    assert len({version(b"x", one), version(b"y", one), version(b"x", other)}) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("memroy: 1GiB", "memroy: unknown key; did you mean `memory`?"),
        ("volumes: {d: {sise: 1GiB, size: 1GiB}}", "volumes.d.sise: unknown key; did you mean `size`?"),
        ("setup: [{run: x, wen: boot}]", "setup[0].wen: unknown key; did you mean `when`?"),
        ("ssh: {users: {ann: {key: x}}}", "ssh.users.ann.key: unknown key; did you mean `keys`?"),
        ("cpus: on", "cpus: `on` is not a whole number; a number from 0 to 999999999"),
        ("cpus: 010", "cpus: `010` is not a whole number; a number from 0 to 999999999"),
        ("memory: 512", "memory: `512` is not a size; a size needs a number and a unit, such as 512MiB or 2GiB"),
        ("memory: ", "memory: there is no value; give it one, or remove the key"),
        ("root: ", "root: there is no value; give it one, or remove the key"),
        ("volumes: ", "volumes: there is no value; a mapping of keys and values is wanted"),
        ("after: b", "after: `b` cannot be here; a list is wanted: `- …` lines, or […]"),
        ("volumes: [x]", "volumes: a list cannot be here; a mapping of keys and values is wanted"),
        ("volumes: {d: 1GiB}", "volumes.d: `1GiB` cannot be here; a mapping of keys and values is wanted"),
        ("volumes: {d: {}}", "volumes.d.size: is missing; add `size:`"),
        ("restart: alway", "restart: `alway` is not known here; did you mean `always`?"),
        ("restart: {}", "restart: a mapping cannot be here; one of always, never"),
        ("setup: [{run: x, timeout: 1:30}]",
         "setup[0].timeout: `1:30` is not a time; a time needs a number and a unit, such as 30s, 5m or 2h"),
        ("setup: ['']", "setup[0]: empty; write something, or remove it"),
        ("ssh: {users: {ann: {sudo: yes}}}",
         "ssh.users.ann.sudo: `yes` is neither true nor false; write true or false"),
        ("ssh: {keys: [abc]}", "ssh.keys[0]: `abc` is not a public key; a line such as `ssh-ed25519 AAAA… me@here`"),
        ("ssh: {keys: ['-----BEGIN OPENSSH PRIVATE KEY-----']}",
         "ssh.keys[0]: this is a private key; give the public one, from the file that ends in .pub"),
        ("publish: ['80']",
         "publish[0]: `80` does not publish a port; HOST-PORT:MACHINE-PORT, such as 8080:80 or 127.0.0.1:8080:80/tcp"),
        ("publish: ['0:80']", "publish[0]: `0` is not a port; a number from 1 to 65535"),
        ("publish: ['1:2/sctp']", "publish[0]: `sctp` is not known here; one of tcp, udp"),
        ("publish: ['::1:1:2']",
         "publish[0]: `::1:1:2` does not publish a port; "
         "HOST-PORT:MACHINE-PORT, such as 8080:80 or 127.0.0.1:8080:80/tcp"),
        ("nics: [{address: 10.1.0.999}]",
         "nics[0].address: `10.1.0.999` is not an address; an IPv4 address such as 10.1.0.5"),
        ("nics: [{mac: '52:54'}]",
         "nics[0].mac: `52:54` is not a MAC address; six pairs such as 52:54:00:12:34:56"),
        ("files: [{path: /x}]",
         "files[0]: neither `source` nor `content`; say with one of them where the bytes come from"),
        ("files: [{path: x, content: y}]",
         "files[0].path: `x` is not an absolute path; begin it with `/`, such as /etc/app.conf"),
        ("files: [{path: /x/../y, content: y}]",
         "files[0].path: `/x/../y` is not a plain path; leave out `.`, `..`, `//` and a `/` at the end"),
        ("files: [{path: /x, content: y, mode: 0999}]",
         'files[0].mode: `0999` is not a file mode; octal digits, such as "0644"'),
        ("files: [{path: /x, content: y, owner: 'a b'}]",
         "files[0].owner: `a b` is not an owner; `user` or `user:group`, such as `root:root`, or their numbers"),
        ("files: [{path: /x, source: gone}]",
         "files[0].source: there is no file `gone` that can be read; "
         "the path is relative to the manifest's directory"),
        ("secrets: [{path: /x, source: gone}]",
         "secrets[0].source: there is no file `gone` that can be read; "
         "the path is relative to the manifest's directory"),
        ("ready: [{tcp: 1, exec: x}]",
         "ready[0]: a probe needs exactly one of `tcp`, `http` and `exec`; such as `tcp: 22`; one entry for each"),
        ("ready: [{exec: }]", "ready[0].exec: there is no value; give it one, or remove the key"),
        ("ready: [{http: {port: 80, path: up}}]",
         "ready[0].http: `up` is not the path of a URL; begin it with `/`, without spaces"),
        ("ready: [{http: {port: 80, status: 99}}]",
         "ready[0].http.status: `99` is not an HTTP status; a number from 100 to 599"),
        ("cloud_init: 'packages: [x]'",
         "cloud_init: the first line does not tell cloud-init what this is; begin with `#cloud-config` or `#!`"),
        ("setup: ['echo ${HOEM}']",
         "setup[0]: there is no variable `HOEM`; "
         "declare it under `variables:`; write ${name}, or $${ for the two characters themselves"),
        ("setup: ['echo ${']",
         "setup[0]: `${` without the name of a variable and `}`; "
         "write ${name}, or $${ for the two characters themselves"),
    ],
)  # fmt: skip
def test_wrong_values(text: str, line: str) -> None:
    assert wrong(text) == line


def test_bad_local_files_are_found() -> None:
    key = "ssh: {keys: [{source: k}]}"
    private = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
    assert wrong(key, files={"k": private}).startswith("ssh.keys[0].source: `k`: this is a private key")
    assert wrong(key, files={"k": b"\xff"}).startswith("ssh.keys[0].source: the file `k` is not UTF-8 text")
    init = "cloud_init: {source: c}"
    assert wrong(init, files={"c": b"x: y"}).startswith("cloud_init.source: the first line does not tell")
    assert machine(init, files={"c": b"#!/bin/sh\n"}).cloud_init == "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("networks", "line"),
    [
        ("n: {subnet: 10.0.0.5/24}",
         "networks.n.subnet: `10.0.0.5/24` is an address with a length, not a subnet; write 10.0.0.0/24"),
        ("n: {subnet: 10.0.0.0}",
         "networks.n.subnet: `10.0.0.0` is not a subnet; "
         "an IPv4 network with its prefix length, such as 10.1.0.0/24"),
        ("n: {subnet: 10.0.0.0/24, uplink: bridge}",
         "networks.n.uplink: `bridge` is not an uplink; "
         "`none`, `nat`, or `bridge:NAME` with the name of a bridge of the host"),
        ("n: {subnet: 10.0.0.0/24, ipv6: blok}", "networks.n.ipv6: `blok` is not known here; did you mean `block`?"),
        ("N: {subnet: 10.0.0.0/24}",
         "networks.N: `N` cannot be a name; "
         "small letters, digits and `-`, beginning with a letter, at most 63, such as `web-1`"),
        ("", "networks: there is no value; a mapping of keys and values is wanted"),
    ],
)  # fmt: skip
def test_wrong_networks(networks: str, line: str) -> None:
    section = f"{{{networks}}}" if networks else ""
    lines = refused(f"version: 1\nsystem: s\nnetworks: {section}\nmachines: {{a: {{image: i}}}}\n")
    assert [text.split(": ", 1)[1] for text in lines] == [line]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[]", ["m.yaml:1:1: a list cannot be here; a mapping of keys and values is wanted"]),
        ("version: 2\nsystem: s\nmachines: {a: {image: i}}",
         ["m.yaml:1:10: version: `2` is not a version that is known here; write `version: 1`"]),
        ("version: 1",
         ["m.yaml:1:1: machines: is missing; add `machines:`", "m.yaml:1:1: system: is missing; add `system:`"]),
        ("version: 1\nsystem: s\nmachines: {}", ["m.yaml:3:1: machines: a system needs a machine; declare one"]),
    ],
)  # fmt: skip
def test_wrong_documents(text: str, lines: list[str]) -> None:
    assert refused(text) == lines


def test_every_problem_is_told_at_once_also_those_of_what_could_be_read() -> None:
    text = """version: 1
system: shop
networks:
  a: {subnet: 10.0.0.0/24, uplnk: nat}
  b: {subnet: 10.0.0.0/16}
  c: {subnet: nonsense}
machines:
  web:
    memroy: 1GiB
    memory: 1MiB
    nics: [a, c, d]
    after: [web, dbb, broken]
  db: {image: y, nics: [{network: a, address: 10.9.9.9}], after: [x]}
  broken: []
"""
    assert refused(text) == [
        "m.yaml:4:15: networks.a.subnet: 10.0.0.0/24 overlaps 10.0.0.0/16 of the network `b`; "
        "subnets of a system must not overlap",
        "m.yaml:4:28: networks.a.uplnk: unknown key; did you mean `uplink`?",
        "m.yaml:6:15: networks.c.subnet: `nonsense` is not a subnet; "
        "an IPv4 network with its prefix length, such as 10.1.0.0/24",
        "m.yaml:8:3: machines.web.image: is missing; add `image:`",
        "m.yaml:9:5: machines.web.memroy: unknown key; did you mean `memory`?",
        "m.yaml:10:13: machines.web.memory: 1 MiB is too small; 64 MiB to 4 TiB",
        "m.yaml:11:18: machines.web.nics[2]: there is no network `d`; one of a, b, c",
        "m.yaml:12:13: machines.web.after[0]: a machine cannot start after itself; remove it",
        "m.yaml:12:18: machines.web.after[1]: there is no machine `dbb`; did you mean `db`?",
        "m.yaml:13:47: machines.db.nics[0].address: 10.9.9.9 is not in 10.0.0.0/24 of the network `a`; "
        "one from 10.0.0.2 to 10.0.0.254",
        "m.yaml:13:67: machines.db.after[0]: there is no machine `x`; one of broken, web",
        "m.yaml:14:3: machines.broken: a list cannot be here; a mapping of keys and values is wanted",
    ]


def test_images_are_checked_where_they_are_known() -> None:
    text = f"{HEAD}machines:\n  a: {{image: debain, root: 1GiB}}\n  b: {{image: debian, root: 1GiB}}\n"
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(ManifestBundle("m.yaml", text), images={"debian": 2 << 30})
    assert caught.value.details == (
        "m.yaml:5:14: machines.a.image: there is no image `debain`; did you mean `debian`?",
        "m.yaml:6:28: machines.b.root: 1 GiB is smaller than the image `debian`; at least 2 GiB",
    )


def test_a_machine_on_several_networks_must_say_which() -> None:
    text = (
        "version: 1\nsystem: s\nnetworks: {a: {subnet: 10.0.0.0/24}, b: {subnet: 10.0.1.0/24}}\nmachines:\n"
    )
    assert refused(text + "  m: {image: i}\n") == [
        "m.yaml:5:3: machines.m.nics: on which of the networks is the machine?; "
        "write `nics: [a]`, or `nics: []` for a machine without network"
    ]
    assert refused(text + "  m: {image: i, nics: [{address: 10.0.0.5}]}\n") == [
        "m.yaml:5:24: machines.m.nics[0].network: is missing; add `network:`, one of a, b"
    ]
    assert parse(text + "  m: {image: i, nics: []}\n").spec.machines[0].nics == ()


def test_variables() -> None:
    text = (
        HEAD
        + "variables: {image: one, size: , '$${odd}': x}\nmachines: {a: {image: '${image}', memory: '${size}'}}"
    )
    assert refused(text, variables={"imag": "x"}) == [
        "m.yaml:4:1: variables: the variable `imag` was set but is not declared here; did you mean `image`?",
        "m.yaml:4:25: variables.size: has no value; set it with --set size=…, or give it a default here",
        'm.yaml:4:33: variables."$${odd}": `$${odd}` cannot name a variable; letters, digits and `_`',
    ]
    good = HEAD + "variables: {image: one, size: }\nmachines: {a: {image: '${image}', memory: '${size}'}}"
    spec = parse(good, variables={"size": "1GiB"}).spec.machines[0]
    assert (spec.image, spec.memory_bytes) == ("one", 1 << 30)
    bad = HEAD + "variables: {x: '${y}', y: z}\nmachines: {a: {image: i}}"
    assert refused(bad) == [
        "m.yaml:4:16: variables.x: a default cannot use other variables; write the text itself, or $${ for ${"
    ]


def test_what_a_variable_holds_is_not_looked_through_again() -> None:
    text = HEAD + "variables: {a: '$${b}', b: no}\nmachines: {m: {image: i, setup: ['${a} $${a} $a $$${b}']}}"
    assert parse(text).spec.machines[0].setup == (SetupSpec("${b} ${a} $a $${b}"),)


def test_variables_cannot_blow_up() -> None:
    many = "".join(f"    - '{'${x}' * 100}'\n" for _ in range(100))
    text = f"{HEAD}variables: {{x: {'y' * 10_000}}}\nmachines:\n  m:\n    image: i\n    setup:\n{many}"
    assert "too large with all variables filled in" in refused(text)[0]


def test_local_files_of_a_manifest() -> None:
    text = """
variables: {dir: src}
machines:
  a:
    files: [{path: /x, source: "${dir}/x"}, {path: /y, content: z}, nonsense]
    secrets: [{path: /k, source: key}]
    cloud_init: {source: user-data}
    ssh: {keys: [{source: me.pub}, text], users: {ann: {keys: [{source: ann.pub}]}}}
  b: nonsense
"""
    assert local_files(text, "m.yaml", {"dir": "lib"}) == LocalFiles(
        frozenset({"lib/x", "user-data", "me.pub", "ann.pub"}), frozenset({"key"})
    )
    assert local_files("nonsense", "m.yaml") == LocalFiles(frozenset(), frozenset())
    # the client does not read what can name no file: the server tells what is wrong with it
    assert local_files("a: [", "m.yaml") == LocalFiles(frozenset(), frozenset())
    with pytest.raises(ManifestInvalid):
        local_files("source: [", "m.yaml")
