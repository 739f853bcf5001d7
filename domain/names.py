"""Names that come from outside, checked once, at the edge."""

import re

from domain.errors import BadInput

_SHA = re.compile(r"[0-9a-f]{40}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)")


def is_sha(text: str) -> bool:
    """Whether a text is a full commit SHA: 40 hexadecimal digits, lower case."""
    return bool(_SHA.match(text))


def checked_sha(text: str) -> str:
    """A full commit SHA: 40 hexadecimal digits, lower case."""
    if not is_sha(text):
        raise BadInput(
            f"{text[:80]!r} is not a full commit SHA.", hint="Give all 40 hexadecimal digits."
        )
    return text


def checked_digest(text: str) -> str:
    """A digest of a manifest: `sha256:` and 64 hexadecimal digits."""
    if not _DIGEST.match(text):
        raise BadInput(
            f"{text[:80]!r} is not a digest.", hint="A digest is sha256: and 64 hexadecimal digits."
        )
    return text


def checked_branch(text: str) -> str:
    """A branch name by git's own rules, and never one that reads as an option.

    Source: https://git-scm.com/docs/git-check-ref-format
    """
    bad = (
        not text
        or len(text.encode(errors="replace")) > 240
        or text in ("@", "HEAD")
        or text.startswith(("-", "/", "."))
        or text.endswith(("/", "."))
        or _BAD_IN_REF.search(text)
        or any("\ud800" <= character <= "\udfff" for character in text)
    )
    if bad:
        raise BadInput(
            f"{text[:80]!r} is not a branch name that git allows.",
            hint="See git-check-ref-format for the rules; a name may not begin with '-'.",
        )
    return text


def checked_name(text: str) -> str:
    """A block's, a stack's or a repository's name: lower case letters, digits, single dashes."""
    if len(text) > 60 or not _NAME.match(text):
        raise BadInput(
            f"{text[:80]!r} cannot be used as a name.",
            hint="Use lower case letters, digits and single dashes, at most 60.",
        )
    return text


def checked_context_path(text: str) -> str:
    """A path inside the build context: relative, and never upwards.

    The Docker SDK reads a Dockerfile outside the context from the host, so this is checked here.
    """
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or text.startswith("/") or "\\" in text or "\x00" in text or ".." in parts:
        raise BadInput(
            f"The path {text[:80]!r} does not lead to a file inside the build context.",
            hint="Give a path relative to the top of the repository, without '..'.",
        )
    return "/".join(parts)


def one_line(text: str, limit: int = 100) -> str:
    """The first line of a text, with control characters made spaces, at most `limit` characters."""
    lines = text.strip().splitlines()
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", lines[0] if lines else "")
    line = "".join(c for c in line if not "\ud800" <= c <= "\udfff").strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
