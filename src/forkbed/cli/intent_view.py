"""What a fork tried to do to the world, in words. What guests wrote is made harmless for the terminal."""

from __future__ import annotations

from forkbed.cli.output import printable, when
from forkbed.core.networks.intents import Intent, IntentKind
from forkbed.engine.branching import IntentView

HEADINGS = ("#", "WHEN", "MACHINE", "NETWORK", "TRIED")
_HTTP_PORT = 80


def row(view: IntentView) -> tuple[str, ...]:
    """A row under `HEADINGS`."""
    return (str(view.cursor), when(view.intent.at), _source(view), view.network, words(view.intent))


def line(view: IntentView) -> str:
    """One line, for following."""
    return f"{when(view.intent.at)}  {_source(view)}  {words(view.intent)}"


def words(intent: Intent) -> str:
    """`http GET example.org/path`, `smtp from a to b: subject`, `dns A example.org -> 203.0.113.7`."""
    return printable(_words(intent))


def _words(intent: Intent) -> str:
    details = intent.details
    match intent.kind:
        case IntentKind.DNS:
            answer = f" -> {details['answer']}" if details.get("answer") else ""
            return f"dns {details.get('type', '?')} {details.get('name', '?')}{answer}"
        case IntentKind.HTTP:
            return f"http {details.get('method', '?')} {_url(intent)}"
        case IntentKind.SMTP:
            subject = f": {details['subject']}" if details.get("subject") else ""
            return (
                f"smtp from {details.get('sender') or '?'} to {details.get('recipients') or '?'}{subject}"
                f" (by {_place(intent)})"
            )
        case IntentKind.TLS:
            return f"tls {_place(intent, details.get('host', ''))}"
        case IntentKind.DROPPED:
            return f"{details.get('count', 'some')} more tries that were not written down"
        case IntentKind.TCP | IntentKind.UDP:
            beginning = f": {intent.first_bytes}" if intent.first_bytes else ""
            return f"{intent.kind} {_place(intent)}{beginning}"


def _url(intent: Intent) -> str:
    path = intent.details.get("path", "/")
    if not path.startswith("/"):
        return path  # to a proxy: it names all of it
    host = intent.details.get("host") or intent.host or intent.destination
    port = "" if intent.port == _HTTP_PORT or ":" in host else f":{intent.port}"
    return f"{host}{port}{path}"


def _place(intent: Intent, host: str = "") -> str:
    name = host or intent.host
    if name and name != intent.destination:
        return f"{name}:{intent.port} ({intent.destination})"
    return f"{intent.destination}:{intent.port}"


def _source(view: IntentView) -> str:
    return view.machine or view.intent.source
