"""The patterns of .dockerignore, matched in linear time: they come from code under test.

Source: https://docs.docker.com/build/concepts/context/#dockerignore-files
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from domain.errors import BadInput


@dataclass(frozen=True)
class Rule:
    """A line of .dockerignore: the paths that it means, and whether it takes them in again."""

    paths: re.Pattern[str]
    keeps: bool


def parse_ignore(text: str) -> list[Rule]:
    """The rules of a .dockerignore file. Raises BadInput for a line that is no pattern."""
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    return [rule for line in lines if not line.startswith("#") if (rule := _rule(line))]


def is_ignored(path: str, rules: list[Rule]) -> bool:
    """Whether the last rule that means the path, or a folder above it, leaves it out."""
    parts = path.split("/")
    ancestry = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    ignored = False
    for rule in rules:
        if any(rule.paths.match(name) for name in ancestry):
            ignored = not rule.keeps
    return ignored


def _rule(line: str) -> Rule | None:
    parts = _clean(line.removeprefix("!").strip())
    if not parts:
        return None
    try:
        return Rule(re.compile(_expression(parts)), keeps=line.startswith("!"))
    except (re.error, IndexError) as error:
        raise BadInput(
            f"{line[:80]!r} in .dockerignore is not a pattern.",
            why=f"{error}.",
            hint="Mend the line, and push again.",
        ) from None


def _clean(pattern: str) -> list[str]:
    """The parts of a pattern, without empty ones, `.` and `..`."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _expression(parts: list[str]) -> str:
    """A regular expression of a whole path.

    Between two wildcards the first match is as good as any later one, so each but the last is
    atomic: nothing is tried twice, whatever the pattern.
    """
    groups: list[list[str]] = [[]]
    for part in parts:
        if part == "**":
            groups.append([])
        else:
            groups[-1].append(_part(part))
    first, *others = ["/".join(group) for group in groups]
    if not others:
        return rf"{first}\Z"
    *middle, last = others
    expression = f"{first}/" if first else ""
    for group in middle:
        expression += rf"(?>(?:[^/]+/)*?{group}/)" if group else ""
    return expression + (rf"(?:[^/]+/)*{last}\Z" if last else r".+\Z")


def _part(part: str) -> str:
    """A regular expression of one part of a path."""
    chunks: list[str] = [""]
    for sign in _signs(part):
        if sign == "*":
            chunks.append("")
        else:
            chunks[-1] += sign
    first, *others = chunks
    if not others:
        return first
    *middle, last = others
    return first + "".join(rf"(?>[^/]*?{chunk})" for chunk in middle if chunk) + rf"[^/]*{last}"


def _signs(part: str) -> Iterator[str]:
    """`*`, or a regular expression of one character."""
    at = 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "*":
            yield "*"
        elif character == "?":
            yield "[^/]"
        elif character == "\\":
            yield re.escape(part[at])
            at += 1
        elif character == "[":
            end = part.index("]", at + 1) if "]" in part[at + 1 :] else -1
            if end < 0:
                raise re.error("a [ without its ]")
            inside = part[at:end]
            negated = inside[:1] in ("^", "!")
            yield f"[{'^' if negated else ''}{_class(inside[negated:])}]"
            at = end + 1
        else:
            yield re.escape(character)


def _class(inside: str) -> str:
    """The inside of a character class: what else a regular expression reads there is escaped."""
    return re.sub(r"([\[\]\\^&~|])", r"\\\1", inside)
