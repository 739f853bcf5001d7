"""npm's big-list-of-naughty-strings: as branches, which git is asked about, and as messages."""

import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from deployments import example
from domain.commit import Commit
from tests import npm

CANARIES = Path(tempfile.gettempdir()), "blns*"
"""Where the files would appear that the strings make where they are executed"""
OURS = (
    "$(touch${IFS}/tmp/blns.substituted)",
    "`touch${IFS}/tmp/blns.backticked`",
    "x;touch${IFS}/tmp/blns.separated",
    "x|touch${IFS}/tmp/blns.piped",
    "x&&touch${IFS}/tmp/blns.chained",
    "--upload-pack=touch${IFS}/tmp/blns.option",
    "{commit.sha}{0}{}%(refname)%s%n",
    "refs/heads/master",
    "<!channel>&<@U1|x>",
)
"""Names of the same kind that git allows, which most of the list's commands are not"""
_NASTY = re.compile(r"[$`<>&;|'\"%{}()#\-/\u200b-\u202e\u2060-\u2069\ufeff]")
_NEVER = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")
"""What no reference of git has; the others it is asked about."""
_IDENTITY = "Ada <ada@example.com> 1700000000 +0000"


@cache
def strings() -> Sequence[str]:
    """All of them, each once; first the nastiest one of each kind, then the others."""
    file = npm.install("naughty") / "big-list-of-naughty-strings" / "blns.json"
    listed = dict.fromkeys([*OURS, *json.loads(file.read_text())])
    kinds = Counter[frozenset[str]]()
    order = dict[str, tuple[int, int]]()
    for text in listed:
        kind = frozenset(_NASTY.findall(text))
        order[text] = (kinds[kind], -len(kind))
        kinds[kind] += 1
    return sorted(order, key=lambda text: order[text])


@cache
def branches() -> Sequence[str]:
    """Those that git allows as names of branches."""

    def allowed(text: str) -> bool:
        if _NEVER.search(text):
            return False
        name = f"refs/heads/{text}".encode()
        return not subprocess.run(["git", "check-ref-format", name], check=False).returncode

    return [text for text in strings() if allowed(text)]


def is_ours(branch: str) -> bool:
    """Whether this system takes a branch that git allows."""
    try:
        Commit(repository="hello", branch=branch)
    except ValueError:
        return False
    return True


def executed() -> list[Path]:
    """What was made by a string that was executed."""
    folder, pattern = CANARIES
    return list(folder.glob(pattern))


def without_parents(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names, and those that git cannot have beside them: `a` beside `a/b`."""
    parents = [name for name in names if any(other.startswith(f"{name}/") for other in names)]
    return [name for name in names if name not in parents], parents


def push_all(folder: Path, commits: Sequence[tuple[str, str]]) -> tuple[Path, list[str]]:
    """A bare repository with a commit for each branch and message, pushed; and their SHAs.

    The file `which` in each commit is its number.
    """
    bare, work, marks = folder / "origin.git", folder / "work.git", folder / "marks"
    for path in (bare, work):
        example.git("init", "--quiet", "--bare", "--initial-branch=none", str(path))
    subprocess.run(
        ["git", "-C", work, "fast-import", "--quiet", f"--export-marks={marks}"],
        input=b"".join(_commits(commits)),
        check=True,
    )
    example.git("-C", str(work), "push", "--quiet", str(bare), "refs/heads/*:refs/heads/*")
    found = dict(line.split() for line in marks.read_text().splitlines())
    return bare, [found[f":{number}"] for number in range(1, len(commits) + 1)]


def _commits(commits: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    """The commits as git's fast-import reads them; those of one branch follow one another."""
    for number, (branch, message) in enumerate(commits, 1):
        text, content = message.encode(), str(number - 1).encode()
        yield f"commit refs/heads/{branch}\nmark :{number}\n".encode()
        yield f"author {_IDENTITY}\ncommitter {_IDENTITY}\n".encode()
        yield b"data %d\n%b\n" % (len(text), text)
        yield b"M 100644 inline which\ndata %d\n%b\n" % (len(content), content)
