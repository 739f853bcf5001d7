"""The build context: what .dockerignore leaves out, and what no archive can smuggle in."""

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from blocks.engine.context import build_context
from blocks.engine.ignore import is_ignored, parse_ignore
from domain.errors import BadInput, DockerfileMissing

LONG = "/".join(["a-folder-with-a-long-name"] * 8) + "/" + "ü" * 60 + ".txt"


def archive(files: Mapping[str, str], links: Mapping[str, str] | None = None) -> io.BytesIO:
    """A tar as `git archive` makes it: with a pax header first."""
    buffer = io.BytesIO()
    headers = {"comment": "0" * 40}
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers
    ) as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for path, target in (links or {}).items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    buffer.seek(0)
    return buffer


def names(source: io.BytesIO, dockerfile: str = "Dockerfile") -> set[str]:
    """The names in the context."""
    with build_context(source, dockerfile) as context, tarfile.open(fileobj=context) as tar:
        return set(tar.getnames())


def kept(ignore: str, *paths: str) -> set[str]:
    """Which of the paths a .dockerignore keeps."""
    rules = parse_ignore(ignore)
    return {path for path in paths if not is_ignored(path, rules)}


# -- .dockerignore ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ignore", "ignored", "stays"),
    [
        ("secret", ["secret", "secret/key"], ["secrets", "a/secret"]),
        ("/secret/", ["secret", "secret/key"], ["a/secret"]),
        ("./a//b", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/../b", ["b"], ["a"]),
        ("*.md", ["a.md", ".md"], ["docs/a.md", "a.md5"]),
        ("*/*.md", ["docs/a.md"], ["a.md", "docs/x/a.md"]),
        ("**/*.md", ["a.md", "docs/a.md", "docs/x/a.md"], ["a.txt"]),
        ("**", ["a", "a/b", "a/b/c"], []),
        ("docs/**/x", ["docs/x", "docs/a/x", "docs/a/b/x/y"], ["docs", "docs/a", "x"]),
        ("a?", ["ab"], ["a", "abc"]),
        ("[ab]c", ["ac", "bc"], ["cc"]),
        ("a.b", ["a.b"], ["axb"]),
        ("# secret\n\n  \n.\nother", ["other"], ["secret", "# secret", "a"]),
        ("\ufeffsecret\r\nother\r\n", ["secret", "other"], []),
        ("build", ["build"], ["Build", "BUILD/x"]),
        ("ü*", ["übung"], ["u"]),
        ("", [], ["a"]),
    ],
)
def test_a_pattern_leaves_out_what_docker_leaves_out(
    ignore: str, ignored: list[str], stays: list[str]
) -> None:
    assert kept(ignore, *ignored, *stays) == set(stays)


@pytest.mark.parametrize(
    ("ignore", "ignored", "stays"),
    [
        ("*.md\n!README.md", ["a.md"], ["README.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md"], ["README.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README.md", "README-secret.md"]),
        ("*\n!src", ["a", "docs/a"], ["src", "src/a/b"]),
        ("node\n!node/keep", ["node/a", "node"], ["node/keep", "node/keep/a"]),
    ],
)
def test_the_last_pattern_that_matches_decides(
    ignore: str, ignored: list[str], stays: list[str]
) -> None:
    assert kept(ignore, *ignored, *stays) == set(stays)


def test_a_line_that_is_no_pattern_is_named() -> None:
    with pytest.raises(BadInput, match=r"\[z-a\]"):
        parse_ignore("ok\n[z-a]")


def test_a_long_ignore_file_is_no_reason_to_wait() -> None:
    rules = parse_ignore("\n".join(f"**/folder{n}/*.o" for n in range(300)))
    assert not any(is_ignored(f"a/b/c/{n}.c", rules) for n in range(100))


# -- the context ------------------------------------------------------------------------------


def test_the_context_is_the_commit_without_what_is_ignored() -> None:
    files = {"Dockerfile": "FROM x", ".dockerignore": "*.key\ndocs", "a.key": "1", "a": "2"}
    files |= {"docs/a": "3"}
    assert names(archive(files)) == {"Dockerfile", ".dockerignore", "a"}


def test_a_dockerfile_is_kept_even_if_it_is_ignored() -> None:
    files = {"docker/Dockerfile": "FROM x", ".dockerignore": "*", "a": "1"}
    assert names(archive(files), "docker/Dockerfile") == {"docker/Dockerfile"}


def test_an_ignore_file_of_the_dockerfiles_own_goes_before_the_common_one() -> None:
    files = {"x.Dockerfile": "FROM x", "x.Dockerfile.dockerignore": "b", ".dockerignore": "a"}
    files |= {"a": "1", "b": "2", "Dockerfile": "FROM x"}
    assert names(archive(files), "x.Dockerfile") == set(files) - {"b"}
    assert names(archive(files), "Dockerfile") == set(files) - {"a"}


def test_an_ignore_file_that_is_a_link_is_not_followed() -> None:
    source = archive({"Dockerfile": "FROM x", "a": "*"}, {".dockerignore": "a"})
    assert names(source) == {"Dockerfile", "a", ".dockerignore"}


def test_a_commit_without_a_dockerfile_is_refused() -> None:
    with pytest.raises(DockerfileMissing, match="docker/Dockerfile"):
        build_context(archive({"Dockerfile": "FROM x"}), "docker/Dockerfile")


def test_a_dockerfile_that_is_a_link_is_refused() -> None:
    source = archive({"a": "1"}, {"Dockerfile": "/etc/passwd"})
    with pytest.raises(BadInput, match="not a plain file"):
        build_context(source, "Dockerfile")


def test_a_dockerfile_that_is_a_folder_is_refused() -> None:
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as tar:
        folder = tarfile.TarInfo("Dockerfile")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    source.seek(0)
    with pytest.raises(BadInput, match="not a plain file"):
        build_context(source, "Dockerfile")


def test_the_context_does_not_begin_with_a_pax_header() -> None:
    source = archive({"Dockerfile": "FROM x", LONG: "long"})
    assert source.getvalue()[156:157] == b"g"
    with build_context(source, "Dockerfile") as context:
        content = context.read()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert not tar.pax_headers
        assert all(not member.pax_headers for member in tar)
    assert content.startswith(b"Dockerfile\0")


def test_long_and_foreign_names_contents_modes_and_links_survive() -> None:
    target = "../" * 60 + "x"
    source = archive({"Dockerfile": "FROM x", LONG: "long", "empty": ""}, {"link": target})
    with build_context(source, "Dockerfile") as context, tarfile.open(fileobj=context) as tar:
        file = tar.extractfile(LONG)
        assert file is not None
        assert file.read() == b"long"
        assert tar.getmember("link").issym()
        assert tar.getmember("link").linkname == target
        assert tar.getmember("empty").size == 0


def test_the_archive_of_a_real_commit_becomes_a_context(tmp_path: Path) -> None:
    files = {"Dockerfile": b"FROM x", "run": b"#!", LONG: b"long", ".dockerignore": b"run.log"}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "run").chmod(0o755)
    # A name that is no UTF-8, as an old archive may have.
    (tmp_path / b"caf\xe9".decode(errors="surrogateescape")).write_text("x")
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, *who, "commit", "--quiet", "--message", "A commit")
    source = io.BytesIO(git(tmp_path, "archive", "HEAD"))
    with build_context(source, "Dockerfile") as context, tarfile.open(fileobj=context) as tar:
        plain = {member.name for member in tar if member.isreg()}
        assert plain == {*files, b"caf\xe9".decode(errors="surrogateescape")}
        assert tar.getmember("run").mode & 0o111
        assert not tar.getmember(LONG).mode & 0o111


def git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "pattern", ["*a" * 50 + "b", "**/a/" * 50 + "b", "?*" * 50 + "b", "[a-a]*" * 50 + "b"]
)
def test_a_hostile_pattern_takes_no_time(pattern: str) -> None:
    rules = parse_ignore(pattern)
    assert not is_ignored("a" * 250, rules)
    assert not is_ignored("a/" * 500 + "a", rules)


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("[^a]", "b", True),
        ("[^a]", "a", False),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "aXbXcX", False),
        ("**/x/**/y", "a/x/b/c/y", True),
        ("**/x/**/y", "x/y", True),
        ("**/x/**/y", "a/y/x", False),
        ("a/**", "a/b/c", True),
        ("**", "a", True),
    ],
)
def test_wildcards_mean_what_docker_says(pattern: str, path: str, ignored: bool) -> None:
    assert is_ignored(path, parse_ignore(pattern)) is ignored
