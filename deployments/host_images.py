"""Images made from this host's own files, for where no registry can be reached.

The example's base image, the registry and the traffic switch are each taken from the host's
packages where they are installed, and else from the official image; either way they have the same
local name.
"""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from blocks.engine import Engine
from blocks.switch import CONFIG_PATH
from domain.errors import MissingTool, SamebitsError

_BUSYBOX = Path("/bin/busybox")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_NOT_NEEDED = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|site-packages|dist-packages|__pycache__|config-[^/]*"
    r"|lib2to3)(/|$)"
)


@dataclass(frozen=True)
class Recipe:
    """An image: its local name, the official one, and how it is made from host files."""

    name: str
    official: str
    programs: dict[str, str]
    """Path inside to path on the host"""
    changes: tuple[str, ...]
    """Dockerfile instructions"""
    trees: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """Path inside to content"""


def python_base() -> Recipe:
    """Python and make: what the example is built from."""
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    return Recipe(
        name="samebits/python:local",
        official="python:3.12-slim",
        programs={f"{sys.base_prefix}/bin/python3": real, "/usr/bin/make": "/usr/bin/make"}
        | ({"/usr/bin/git": "/usr/bin/git"} if Path("/usr/lib/git-core").is_dir() else {}),
        trees=(sysconfig.get_path("stdlib"), "/usr/lib/git-core"),
        changes=(
            "ENV PATH=/usr/local/bin:/usr/bin:/bin",
            f"ENV SSL_CERT_FILE={_CERTIFICATES} PIP_CERT={_CERTIFICATES}",
            'CMD ["python3"]',
        ),
    )


def registry() -> Recipe:
    """The embedded registry."""
    return Recipe(
        name="samebits/registry:local",
        official="registry:2",
        programs={"/bin/registry": "/usr/bin/docker-registry"},
        files={"/etc/docker/registry/config.yml": _REGISTRY_CONFIG},
        changes=(
            'ENTRYPOINT ["/bin/registry"]',
            'CMD ["serve", "/etc/docker/registry/config.yml"]',
            "VOLUME /var/lib/registry",
        ),
    )


def haproxy() -> Recipe:
    """The traffic switch."""
    return Recipe(
        name="samebits/haproxy:local",
        official="haproxy:2.8-alpine",
        programs={"/usr/local/sbin/haproxy": "/usr/sbin/haproxy"},
        files={"/usr/local/etc/haproxy/README": "haproxy.cfg is laid here by its stack.\n"},
        changes=(
            "USER 65534:65534",
            f'CMD ["/usr/local/sbin/haproxy", "-W", "-db", "-f", "{CONFIG_PATH}"]',
        ),
    )


def ensure_images(engine: Engine) -> None:
    """Have all three images on the engine."""
    for recipe in (python_base(), registry(), haproxy()):
        if engine.image_id(recipe.name):
            continue
        if _can_make(recipe):
            with tempfile.TemporaryFile() as tar:
                _write_root(tar, recipe)
                tar.seek(0)
                engine.load_root(tar, recipe.name, recipe.changes)
        else:
            _take_official(engine, recipe)


def _can_make(recipe: Recipe) -> bool:
    needed = [_BUSYBOX, _CERTIFICATES, *map(Path, recipe.programs.values())]
    return sys.platform == "linux" and all(path.exists() for path in needed)


def _take_official(engine: Engine, recipe: Recipe) -> None:
    try:
        engine.pull(recipe.official)
    except SamebitsError as error:
        missing = ", ".join(p for p in recipe.programs.values() if not Path(p).exists())
        raise MissingTool(
            f"There is no image {recipe.name}: {recipe.official} cannot be pulled, and it cannot "
            f"be made here, for want of {missing or 'busybox-static'}.",
            why=error.why,
            hint="Install docker-registry, haproxy, busybox-static and make from the distribution, "
            "or let the engine reach a registry.",
        ) from error
    engine.tag(engine.image_id(recipe.official) or "", *recipe.name.split(":"))


def _write_root(file: IO[bytes], recipe: Recipe) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        root = _Root(tar)
        for folder in ("bin", "usr/bin", "lib64", "etc", "root", "var/tmp"):
            root.special(folder, tarfile.DIRTYPE)
        root.special("tmp", tarfile.DIRTYPE, mode=0o1777)
        for inside, path in {"/bin/busybox": str(_BUSYBOX), **recipe.programs}.items():
            root.copy(inside, path)
            root.special(f"usr/bin/{Path(inside).name}", tarfile.SYMTYPE, link=inside)
        applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True)
        own = {Path(path).name for path in recipe.programs}
        for applet in sorted(set(applets.stdout.split()) - own):
            root.special(f"bin/{applet}", tarfile.SYMTYPE, link="/bin/busybox")
        root.text("etc/passwd", _USERS)
        root.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        root.text("etc/nsswitch.conf", "hosts: files dns\n")
        root.text(str(_CERTIFICATES), _CERTIFICATES.read_text())
        for inside, text in recipe.files.items():
            root.text(inside, text)
        for tree in filter(os.path.isdir, recipe.trees):
            root.copy(tree, tree)
        libraries = _libraries(recipe.programs.values(), recipe.trees)
        if recipe.trees:
            libraries |= _for_wheels()
        for library in sorted(libraries):
            root.copy(library, library)


class _Root:
    """A root file system being written; each path once, everything owned by root."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._written: set[str] = set()

    def copy(self, inside: str, path: str) -> None:
        """A file, followed if it is a link, or a whole folder of the host."""
        self._tar.add(os.path.realpath(path), inside.lstrip("/"), filter=self._wanted)

    def special(self, name: str, kind: bytes, *, mode: int = 0o755, link: str = "") -> None:
        """A folder or a symbolic link."""
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.linkname = kind, mode, link
        if wanted := self._wanted(member):
            self._tar.addfile(wanted)

    def text(self, name: str, text: str) -> None:
        """A file with this content."""
        member = tarfile.TarInfo(name.lstrip("/"))
        member.size, member.mode = len(text.encode()), 0o644
        if wanted := self._wanted(member):
            self._tar.addfile(wanted, io.BytesIO(text.encode()))

    def _wanted(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.name in self._written or _NOT_NEEDED.search("/" + member.name):
            return None
        self._written.add(member.name)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member


def _libraries(programs: Iterable[str], trees: Sequence[str]) -> set[str]:
    """The shared libraries that these need, by the paths under which they are looked for."""
    objects = [os.path.realpath(program) for program in programs]
    for tree in filter(os.path.isdir, trees):
        objects += [str(path) for path in Path(tree, "lib-dynload").glob("*.so")]
        objects += [str(path) for path in Path(tree).glob("git-remote-http")]
    found = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False).stdout
    return {path for path in re.findall(r"(/\S+?)(?::|\s|$)", found) if ".so" in Path(path).name}


def _for_wheels() -> set[str]:
    """The libraries that Python wheels may expect of a host.

    Source: https://peps.python.org/pep-0599/#the-manylinux2014-policy
    """
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    wanted = r"libgcc_s|libstdc\+\+|librt|libdl|libpthread|libutil"
    return set(
        re.findall(rf"^\s*(?:{wanted})\.so\.\d+ .*64.* => (\S+)$", known.stdout, re.MULTILINE)
    )


_USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n"

_REGISTRY_CONFIG = """\
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  delete: {enabled: true}
http:
  addr: :5000
  headers: {X-Content-Type-Options: [nosniff]}
health:
  storagedriver: {enabled: true, interval: 10s, threshold: 3}
"""
