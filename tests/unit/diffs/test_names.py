"""Names of a guest's come back as they were, and cannot steer a terminal."""

from hypothesis import given
from hypothesis import strategies as some

from forkbed.core.diffs.names import raw, shown


@given(some.binary(max_size=40))
def test_any_bytes_come_back(name: bytes) -> None:
    assert raw(shown(name)) == name


@given(some.binary(max_size=40))
def test_what_is_shown_is_printable(name: bytes) -> None:
    assert shown(name).isprintable()
    shown(name).encode()


@given(some.text(max_size=20), some.text(max_size=20))
def test_different_names_are_shown_differently(one: str, other: str) -> None:
    names = [text.encode("utf-8", "surrogatepass") for text in (one, other)]
    assert (shown(names[0]) == shown(names[1])) == (names[0] == names[1])


def test_examples() -> None:
    assert shown("/etc/höst name".encode()) == "/etc/höst name"
    assert shown(b"a\x1b[2Jb\n") == "a\\x1b[2Jb\\x0a"
    assert shown(b"\\x41") == "\\\\x41"
    assert shown(b"caf\xe9") == "caf\\xe9"
