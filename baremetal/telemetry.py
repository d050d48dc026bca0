"""Logging and metrics, and the sink that keeps secrets out of both.

Owns: the set-up of structlog (and of the standard library's loggers through it), redaction of whatever is about to
be written, and the metrics everybody counts on. Knows no floor above: names, labels and texts come from the callers.

Redaction is the last line of defence: callers mask what they know to be secret, and this finds what slipped
through, by the key it stands under and by its shape in a text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Self, TextIO

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector
from structlog.types import EventDict, Processor, WrappedLogger

MASK = "***"
_DEPTH = 8

# ---- redaction ----------------------------------------------------------------------------------------------

_SECRET_KEY = re.compile(
    r"passw|passphrase|secret|token|credential|authorization|cookie|private_?key|proof_?key_?pem|api_?key"
    r"|(^|[_-])pwd($|[_-])",
    re.IGNORECASE,
)

# Each shape stands behind words without one of which it cannot match: most texts hold none, and a word is found much
# faster than a shape. They are looked for in the folded text, which takes as equal whatever letters a shape does that
# ignores case; only the dotless i it does not, which is why no word holds an i.
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    # -----BEGIN OPENSSH PRIVATE KEY----- … (cut off or whole)
    (
        ("-----begin",),
        re.compile(
            r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        rf"\1{MASK}\2",
    ),
    # scheme://user:password@host; for a BMC's URL up to the last @, because passwords carry anything. Machines upload
    # such texts, so no shape may take more than a bounded look ahead from where it begins.
    (
        ("://",),
        re.compile(r"\b((?:ipmi|sim|redfish(?:\+https?)?)://[^\s:/@]{0,256}):\S{1,512}@"),
        rf"\1:{MASK}@",
    ),
    (("://",), re.compile(r"(://[^\s:/@]{0,256}):[^\s/@]{1,512}@"), rf"\1:{MASK}@"),
    # the two tokens of a run, wherever their URL is printed
    (("/answer/", "/callback/"), re.compile(r"(/(?:answer|callback)/)[^/\s?#\"']+"), rf"\1{MASK}"),
    (("bearer",), re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE), rf"\1{MASK}"),
    # password=…, "token": "…", --password …; not the word in a sentence
    (
        ("passw", "passphrase", "secret", "token", "key"),
        re.compile(
            r"((?:\b|[\w-])(?:password|passwd|passphrase|secret|token|api[_-]?key)[\"']?\s*(?:=|(?<=[\"']):)\s*)"
            r"(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (
        ("passw", "secret", "token"),
        re.compile(r"((?:^|\s)--?(?:password|passwd|token|secret)\s+)[^\s-]\S*", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    # crypt(3) hashes, as in rootpw or user-password-crypted
    (("$",), re.compile(r"\$(?:1|2[abxy]|5|6|7|y|gy)\$[./A-Za-z0-9$=,]+"), MASK),
)


def redact_text(text: str) -> str:
    """Mask what looks like a secret in `text`: URL passwords, run tokens, bearer tokens, keys, hashes, `password=…`."""
    folded = text.casefold()
    for words, shape, mask in _SHAPES:
        for word in words:
            if word in folded:
                text = shape.sub(mask, text)
                break
    return text


def redact(value: object, _depth: int = 0) -> object:
    """Return `value` as it may be written anywhere: mappings and lists gone through, secret keys and shapes masked."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, (bytes, bytearray)):
        return redact_text(bytes(value).decode("utf-8", "replace"))
    if _depth >= _DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {key: _redact_item(str(key), item, _depth) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item, _depth + 1) for item in value]
    return redact_text(str(value))


def _redact_item(key: str, value: object, depth: int) -> object:
    # A number or a flag under such a key (`token_count`, `password_set`) tells no secret.
    if _SECRET_KEY.search(key) and value is not None and not isinstance(value, (bool, int, float)):
        return MASK
    return redact(value, depth + 1)


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Go over a whole log event: the structlog processor in front of every renderer."""
    private = {"_record", "_from_structlog"}
    return {key: item if key in private else _redact_item(key, item, 0) for key, item in event.items()}


# ---- logging ------------------------------------------------------------------------------------------------


def configure(*, form: str = "console", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging, ours and the libraries', redacted to `stream` (stderr): `console` or `json`. Idempotent."""
    out = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.processors.format_exc_info,  # a traceback becomes text here, so that it is redacted too
                redact_event,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if getattr(old, "_baremetal", False):
            root.removeHandler(old)
    handler._baremetal = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True


# Libraries that tell, at `info`, what nobody asked them. uvicorn's access log repeats our own timeline, with URLs.
_QUIET = {
    "alembic": logging.WARNING,
    "apscheduler": logging.ERROR,  # that a tick was left out because the one before still runs is no news
    "httpcore2": logging.WARNING,
    "httpx2": logging.WARNING,
    "paramiko": logging.WARNING,
    "uvicorn.access": logging.WARNING,
}


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module; events are short past-tense phrases, everything else goes into keys."""
    return structlog.stdlib.get_logger(name)


# ---- metrics ------------------------------------------------------------------------------------------------
# Labels are drawn from small, closed sets only: never a server, a MAC or an address.

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)


class _Remembering(MetricWrapperBase):
    """A metric that finds the child for labels it has seen before without taking the library's lock for it.

    Children are never removed from such a metric.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._found: dict[tuple[str, ...], Self] = {}

    def labels(self, *values: str) -> Self:  # type: ignore[override]
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = super().labels(*values)
        return found


class Counter(_Remembering, prometheus_client.Counter):
    pass


class Histogram(_Remembering, prometheus_client.Histogram):
    pass


SERVERS = Gauge("baremetal_servers", "Servers under care, by provision state.", ["state"], registry=REGISTRY)
TRANSITIONS = Counter(
    "baremetal_transitions_total",
    "Changes of provision state.",
    ["from_state", "to_state"],
    registry=REGISTRY,
)
RUNS = Counter("baremetal_runs_total", "Runs that ended.", ["verb", "outcome"], registry=REGISTRY)
RUN_SECONDS = Histogram(
    "baremetal_run_seconds",
    "How long a run took from request to end.",
    ["verb", "outcome"],
    buckets=(1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200),
    registry=REGISTRY,
)
BMC_CONVERSATIONS = Counter(
    "baremetal_bmc_conversations_total",
    "Conversations with BMCs; outcome is ok or the class of the error.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
BMC_CONVERSATION_SECONDS = Histogram(
    "baremetal_bmc_conversation_seconds",
    "How long a conversation with a BMC took.",
    ["kind"],
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 180),
    registry=REGISTRY,
)
BOOT_ANSWERS = Counter(
    "baremetal_boot_answers_total",
    "What netbooting machines were told.",
    ["loader", "answer"],
    registry=REGISTRY,
)
ANSWER_FILES = Counter(
    "baremetal_answer_files_total", "Requests for answer files.", ["outcome"], registry=REGISTRY
)
TFTP_REQUESTS = Counter(
    "baremetal_tftp_requests_total",
    "Requests over TFTP; outcome is how they ended, or dropped for those beyond a limit.",
    ["outcome"],
    registry=REGISTRY,
)
TFTP_BYTES = Counter(
    "baremetal_tftp_bytes_total", "Bytes of content that TFTP clients acknowledged.", registry=REGISTRY
)
TFTP_RETRANSMITS = Counter(
    "baremetal_tftp_retransmits_total", "Packets that were sent to TFTP clients again.", registry=REGISTRY
)
CALLBACKS = Counter(
    "baremetal_callbacks_total",
    "Call-backs heard, by signal and reply.",
    ["signal", "status"],
    registry=REGISTRY,
)
SWEEPS = Counter("baremetal_sweeps_total", "Sweeps that ended.", ["outcome"], registry=REGISTRY)
SWEEP_LAG_SECONDS = Gauge(
    "baremetal_sweep_lag_seconds",
    "How long the most overdue server had been waiting when the last sweep saw it.",
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "baremetal_request_seconds",
    "How long HTTP requests took; route is the template, never the path.",
    ["app", "method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
    registry=REGISTRY,
)


def exposition() -> bytes:
    """Return all metrics in Prometheus' text form."""
    return generate_latest(REGISTRY)


DHCP_RUNNING = Gauge(
    "baremetal_dhcp_running", "1 while our dnsmasq serves DHCP, 0 otherwise.", registry=REGISTRY
)
