"""What git says, and what of it can be mended by itself."""

import re

from domain.errors import DiskFull, RepositoryRefused, RepositoryUnreachable, SamebitsError
from domain.names import one_line

_AWAY = re.compile(
    r"timed out|Connection (?:refused|reset|closed)|Could not resolve|Network is unreachable"
    r"|early EOF|error: 5\d\d",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|not found|error: 40[13]"
    r"|Permission denied|does not appear to be a git repository",
    re.IGNORECASE,
)


def protocol(url: str) -> str:
    """The protocol of a URL in git's words; empty for none that is known."""
    if "://" in url:
        return url.partition("://")[0]
    if url.startswith("/"):
        return "file"
    return "ssh" if re.match(r"[\w.-]+@[\w.-]+:", url) else ""


def git_error(url: str, stderr: str) -> SamebitsError:
    """What a failed command of git means, by what it wrote on its standard error."""
    why = one_line(stderr.strip().removeprefix("stderr:").strip(" '\n"), 300)
    if "No space left" in stderr:
        return DiskFull(f"No space is left for the mirror of {url}.", why=why, hint="Free space.")
    if _REFUSED.search(stderr) and not _AWAY.search(stderr):
        return RepositoryRefused(
            f"{url} cannot be read.",
            why=why,
            hint="Check URL and token in the repository's block.",
        )
    return RepositoryUnreachable(f"{url} does not answer.", why=why)
