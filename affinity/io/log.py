"""Structured logging for both processes: one JSON object a line, or readable lines where a person watches.

Everything goes to stderr; lines of other libraries (uvicorn, aio_pika) take the same form. Log ids, models, workers,
codes and numbers - never inputs, results, keys or URLs with a password.
"""

import logging
import sys
from collections.abc import Sequence
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

_QUIET = ("aio_pika", "aiormq", "httpx", "httpcore", "urllib3", "uvicorn.access")
"""Libraries whose chatter below a warning repeats what we log ourselves."""


def configure_logging(level: str, service: str, out: TextIO = sys.stderr, pretty: bool | None = None) -> None:
    """Send every log line of this process to ``out``.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``; ``service`` is put on each line. ``pretty`` None: lines
    for people if ``out`` is a terminal, else JSON.
    """

    def name_service(_: object, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    before: Sequence[Processor] = [
        name_service,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    shown: list[Processor]
    if out.isatty() if pretty is None else pretty:
        # The default formatter prints local variables, and with them inputs and keys.
        shown = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        shown = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    destination = logging.StreamHandler(out)
    destination.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown]
        )
    )
    root = logging.getLogger()
    root.handlers = [destination]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
