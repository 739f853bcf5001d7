"""Where the time of one run goes: as a table, and as a picture."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|sha256:[0-9a-f]+|\b[0-9a-f]{40,64}\b")
_WIDTH, _ROW, _LEFT = 1100, 18, 190
_COLOURS = {"step": "#4c78a8", "Prefect": "#f58518", "engine": "#54a24b", "registry": "#b279a2"}


@dataclass(frozen=True)
class Part:
    """Something that took time: in seconds after the webhook's first byte."""

    lane: str
    kind: str
    """`step`, or who was asked: Prefect, engine or registry"""
    name: str
    start: float
    seconds: float


def read_trace(file: Path, began: float, ended: float, lanes: dict[int, str]) -> list[Part]:
    """Requests and forks of a time, by what made them; `lanes` names the processes known."""
    parts = []
    for line in file.read_text().splitlines():
        call = json.loads(line)
        if began <= call["at"] <= ended:
            at, seconds = call["at"] - began, call["seconds"]
            if call["method"] == "fork":
                parts.append(Part("run", "step", "forked", at, seconds))
                continue
            path = call["path"].partition("?")[0]
            kind = _kind(path)
            lane = lanes.get(call["pid"], "run")
            name = f"{call['method']} {_ID.sub('…', path)}"
            parts.append(Part(lane, kind, name, at, seconds))
    return parts


def _kind(path: str) -> str:
    if path.startswith("/api/"):
        return "Prefect"
    return "registry" if path.startswith("/v2/") else "engine"


def table(parts: list[Part]) -> list[tuple[str, str, int, float]]:
    """Of each process, what was asked: who by, what, how often, and for how many seconds in all."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for part in parts:
        if part.kind != "step":
            sums[part.lane, f"{part.kind}: {part.name}"].append(part.seconds)
    rows = [(lane, what, len(took), sum(took)) for (lane, what), took in sums.items()]
    return sorted(rows, key=lambda row: -row[3])


def svg(parts: list[Part], whole: float) -> str:
    """A picture: a row for each step, and for what each process asked of whom."""
    rows = list(dict.fromkeys((p.lane, p.kind if p.kind != "step" else p.name) for p in parts))
    scale = (_WIDTH - _LEFT - 20) / whole
    height = (len(rows) + 3) * _ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        "<style>text { font: 11px sans-serif }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for tenth in range(int(whole * 10) + 1):
        x = _LEFT + tenth / 10 * scale
        strong = tenth % 5 == 0
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_ROW}" y2="{height - _ROW}" '
            f'stroke="{"#999" if strong else "#eee"}"/>'
        )
        if strong:
            lines.append(f'<text x="{x:.1f}" y="12" text-anchor="middle">{tenth / 10:g} s</text>')
    for number, (lane, what) in enumerate(rows):
        y = (number + 1) * _ROW + 6
        lines.append(f'<text x="4" y="{y + 10}">{escape(f"{lane}: {what}")}</text>')
        for part in parts:
            if (part.lane, part.kind if part.kind != "step" else part.name) == (lane, what):
                x, width = _LEFT + part.start * scale, max(part.seconds * scale, 1)
                title = f"{part.name}: {part.seconds * 1000:.0f} ms"
                lines.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 5}" '
                    f'fill="{_COLOURS[part.kind]}" fill-opacity="0.8">'
                    f"<title>{escape(title)}</title></rect>"
                )
    return "\n".join([*lines, "</svg>"]) + "\n"
