"""The build context: a tar of one commit, without what .dockerignore names.

The Engine API does not apply .dockerignore; the client has to.
Source: https://docs.docker.com/build/concepts/context/#dockerignore-files
"""

import tarfile
import tempfile
from typing import IO

from blocks.engine.ignore import Rule, is_ignored, parse_ignore
from domain.errors import BadInput, DockerfileMissing

_MOST_IGNORE_BYTES = 1 << 20


def build_context(archive: IO[bytes], dockerfile: str) -> IO[bytes]:
    """A temporary file with the context, at its start; the caller closes it.

    `archive` is a seekable tar of the commit. Raises DockerfileMissing, and BadInput for a
    Dockerfile that is not a plain file.
    """
    with tarfile.open(fileobj=archive, mode="r:") as source:
        _check_dockerfile(source, dockerfile)
        rules = _rules(source, dockerfile)
        # The file outlives this function: the engine reads it.
        context = tempfile.TemporaryFile()  # noqa: SIM115
        # BuildKit takes a tar that begins with a pax header, as git's do, for a Dockerfile.
        with tarfile.open(fileobj=context, mode="w", format=tarfile.GNU_FORMAT) as target:
            for member in source:
                if member.name == dockerfile or not is_ignored(member.name, rules):
                    target.addfile(member, source.extractfile(member) if member.isreg() else None)
    context.seek(0)
    return context


def _check_dockerfile(source: tarfile.TarFile, dockerfile: str) -> None:
    try:
        member = source.getmember(dockerfile)
    except KeyError:
        raise DockerfileMissing(
            f"The commit has no {dockerfile}.",
            hint="Add it, or set settings.build.dockerfile in prefect.yaml to where it is.",
        ) from None
    if not member.isreg():
        raise BadInput(
            f"{dockerfile} is not a plain file.", hint="A link to a Dockerfile is not followed."
        )


def _rules(source: tarfile.TarFile, dockerfile: str) -> list[Rule]:
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            member = source.getmember(name)
        except KeyError:
            continue
        file = source.extractfile(member) if member.isreg() else None
        if file is not None:
            return parse_ignore(file.read(_MOST_IGNORE_BYTES).decode(errors="replace"))
    return []
