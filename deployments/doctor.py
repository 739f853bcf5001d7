"""`samebits doctor`: everything that a run needs, looked at, and what to do about what is wrong."""

import asyncio
import logging
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence

from deployments.checks.checking import Scene
from deployments.checks.everything import examine
from deployments.settings import SystemSettings
from domain.health import Finding, Verdict

_WIDEST = 100
Say = Callable[[str], None]


def scene_of(settings: SystemSettings, limit_seconds: float) -> Scene:
    """The system of this environment: this host's, or another one's by PREFECT_API_URL."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/") or settings.api_url
    kept = settings.home / "api.password"
    password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if url != settings.api_url:
        password = os.environ.get("PREFECT_API_AUTH_STRING")
    elif not password and kept.exists():  # looking makes none
        password = f"samebits:{kept.read_text()}"
    return Scene(settings, url, password or "", limit_seconds)


def run_doctor(settings: SystemSettings, limit_seconds: float, say: Say) -> bool:
    """Look at everything and say what was found; True if nothing failed."""
    logging.disable()  # what went wrong is said here
    findings = asyncio.run(examine(scene_of(settings, limit_seconds)))
    for line in lines(findings, min(shutil.get_terminal_size((_WIDEST, 0)).columns, _WIDEST)):
        say(line)
    return not any(finding.verdict is Verdict.FAILED for finding in findings)


def lines(findings: Sequence[Finding], width: int) -> list[str]:
    """A line for each finding, aligned; under what is not ok, what to do next; then the sum."""
    name = max(len(finding.what) for finding in findings)
    margin = max(len(verdict) for verdict in Verdict) + name + 4
    shown: list[str] = []
    for finding in findings:
        begin = f"{finding.verdict:{margin - name - 2}}{finding.what:{name}}  "
        shown += _wrapped(begin, finding.said, margin, width)
        if finding.hint:
            shown += _wrapped(" " * margin, f"→ {finding.hint}", margin + 2, width)
    count = Counter(finding.verdict for finding in findings)
    wrong = [f"{count[v]} {v}" for v in Verdict if v is not Verdict.OK and count[v]]
    return [*shown, "", f"{count[Verdict.OK]} ok, {', '.join(wrong) or 'nothing wrong'}"]


def _wrapped(begin: str, text: str, margin: int, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, margin + 30),
        initial_indent=begin,
        subsequent_indent=" " * margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
