"""Pruning at a real engine and in a real data folder; only what these tests have made goes."""

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from filelock import FileLock

from blocks.disk import check_space, free_mib, remove_mirrors_but, remove_old_locks
from blocks.engine import DockerHost, Engine, Service
from blocks.home import keep_days, least_free_mib, locks_home, mirrors_home, one_at_a_time
from domain.errors import BadInput, DiskLow
from domain.image import KEY_LABEL, REVISION_LABEL, SOURCE_LABEL
from domain.pruning import Needed, StoredImage, superfluous
from domain.settings import BuildSettings
from tests.conftest import unique

BASE = "samebits/python:local"


class Built:
    """An image as the build step leaves it, of a repository that no other test has."""

    def __init__(self, engine: Engine) -> None:
        self.repository, self.key = f"prune-{unique()[:12]}", unique() * 2
        self.url = f"https://example.com/{self.repository}.git"
        self.name = f"samebits-build/{self.repository}:{self.key}"
        labels = {SOURCE_LABEL: self.url, REVISION_LABEL: unique() + "0" * 8, KEY_LABEL: self.key}
        settings = BuildSettings(args={"BASE": BASE})
        self.id = engine.build(_archive(unique()), settings, labels, self.name, lambda _: None)

    @property
    def sources(self) -> dict[str, list[str]]:
        return {self.url: [self.repository]}


def _archive(text: str) -> io.BytesIO:
    buffer = io.BytesIO()
    files = {"Dockerfile": "ARG BASE\nFROM $BASE\nCOPY text /text\n", "text": text}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
    buffer.seek(0)
    return buffer


@pytest.fixture
def built(engine: Engine) -> Iterator[Built]:
    image = Built(engine)
    yield image
    if left := engine.built_image(image.id):
        engine.remove_built(left)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


def found(engine: Engine, built: Built) -> list[StoredImage]:
    needed = Needed(image_ids=engine.images_in_use())
    return superfluous(engine.built_images(), built.sources, needed, soon())


@pytest.mark.engine
def test_an_image_of_a_pipeline_is_found_and_removed_with_all_its_names(
    engine: Engine, built: Built
) -> None:
    engine.tag(built.id, f"127.0.0.1:4250/{built.repository}", "a" * 40)
    (image,) = found(engine, built)
    assert image.id == built.id
    assert set(image.names) == {built.name, f"127.0.0.1:4250/{built.repository}:{'a' * 40}"}
    assert image.size_bytes > 0
    assert engine.remove_built(image)
    assert engine.built_image(built.id) is None
    assert engine.image_id(built.name) is None


@pytest.mark.engine
def test_an_image_without_a_name_is_removed_by_its_id(engine: Engine, built: Built) -> None:
    other = engine.image_id(BASE)
    assert other
    engine.tag(other, f"samebits-build/{built.repository}", built.key)
    try:
        (image,) = found(engine, built)
        assert image.names == ()
        assert engine.remove_built(image)
        assert engine.built_image(built.id) is None
    finally:
        engine.remove_image(built.name)


@pytest.mark.engine
def test_an_image_that_a_container_uses_stays_also_where_the_container_came_last(
    engine: Engine, built: Built, name: str
) -> None:
    (image,) = found(engine, built)
    container = f"{name}-{built.repository}"
    engine.create(Service(container, built.id, labels={"samebits.role": "none"}, keep=False))
    try:
        assert found(engine, built) == []
        assert engine.remove_built(image) is False
        assert engine.built_image(built.id)
    finally:
        engine.remove(container)


@pytest.mark.engine
def test_what_others_have_removed_meanwhile_is_no_error(engine: Engine, built: Built) -> None:
    (image,) = found(engine, built)
    engine.remove_image(built.name)
    assert engine.built_image(built.id) is None
    engine.take_again(built.id)
    assert engine.remove_built(image)


@pytest.mark.engine
def test_a_step_that_takes_an_image_makes_it_younger_and_gives_it_no_other_name(
    engine: Engine, built: Built
) -> None:
    (before,) = found(engine, built)
    engine.take_again(built.id)
    (after,) = found(engine, built)
    assert after.used > before.used
    assert after.names == before.names


@pytest.mark.engine
def test_a_container_that_goes_while_containers_are_listed_is_left_out(
    engine: Engine, docker_host: DockerHost, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, names = {"samebits.test": unique()}, [f"{name}-{unique()[:8]}" for _ in range(2)]
    for container in names:
        engine.create(Service(container, BASE, labels=labels, keep=False))
    _meanwhile(engine, "containers", lambda other: other.remove(names[0]), docker_host, monkeypatch)
    try:
        assert [container.name for container in engine.containers(labels)] == names[1:]
    finally:
        engine.remove(names[1])


@pytest.mark.engine
def test_an_image_that_goes_while_images_are_listed_is_left_out(
    engine: Engine, docker_host: DockerHost, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(engine, built)
    _meanwhile(engine, "images", lambda o: o.remove_image(built.name), docker_host, monkeypatch)
    assert found(engine, built) == []


def _meanwhile(
    engine: Engine,
    call: str,
    act: Callable[[Engine], None],
    host: DockerHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Have somebody else act between this call of the engine's API and what comes next."""
    real = getattr(engine._docker.api, call)

    def called(*args: Any, **options: Any) -> Any:
        answer = real(*args, **options)
        with Engine(host) as other:
            act(other)
        return answer

    monkeypatch.setattr(engine._docker.api, call, called)


@pytest.mark.engine
def test_build_cache_that_was_used_lately_and_is_not_too_much_stays(engine: Engine) -> None:
    # Nothing of what other tests build is as old, or as large.
    assert engine.prune_cache(unused_days=36_500, most_mib=1 << 30) == 0


@pytest.mark.engine
def test_the_folder_of_the_engine_is_one_of_this_host_or_unknown(engine: Engine) -> None:
    folder = engine.folder()
    assert folder is None or folder.is_dir()


class _Asked(BaseHTTPRequestHandler):
    """An engine that only remembers what it was asked."""

    version: str
    asked: list[dict[str, list[str]]]

    def do_GET(self) -> None:
        self._answer({"ApiVersion": self.version, "MinAPIVersion": "1.24"})

    def do_POST(self) -> None:
        self.asked.append(parse_qs(urlsplit(self.path).query))
        self._answer({"CachesDeleted": ["x"], "SpaceReclaimed": 1000})

    def _answer(self, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base class
        pass


@pytest.mark.parametrize(
    ("version", "size"),
    [("1.41", "keep-storage"), ("1.47", "keep-storage"), ("1.51", "reserved-space")],
)
def test_the_cache_is_pruned_by_age_and_then_by_size_in_the_words_of_the_engine(
    version: str, size: str
) -> None:
    handler = type("Handler", (_Asked,), {"version": version, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = DockerHost(base_url=f"tcp://127.0.0.1:{server.server_port}")
        with Engine(host) as engine:
            assert engine.prune_cache(unused_days=30, most_mib=10_240) == 2000
            assert engine.folder() is None, "that of another host says nothing of this one"
        server.shutdown()
    assert handler.asked == [
        {"all": ["1"], "filters": ['{"until": ["2592000s"]}']},
        {"all": ["1"], size: [str(10 << 30)]},
    ]


# -- this host --------------------------------------------------------------------------------


def test_mirrors_of_repositories_without_a_block_go_unless_somebody_holds_them() -> None:
    for name in ("kept", "gone", "held"):
        (mirrors_home() / f"{name}.git" / "objects").mkdir(parents=True)
        (mirrors_home() / f"{name}.git.lock").touch()
    with FileLock(mirrors_home() / "held.git.lock"):
        assert remove_mirrors_but({"kept"}) == ["gone"]
    there = sorted(path.name for path in mirrors_home().iterdir())
    assert there == ["held.git", "held.git.lock", "kept.git", "kept.git.lock"]
    assert remove_mirrors_but({"kept"}) == ["held"]


def test_no_mirror_at_all_is_fine() -> None:
    assert remove_mirrors_but(set()) == []
    assert remove_old_locks() == 0


def test_old_lock_files_go_unless_somebody_holds_them() -> None:
    with one_at_a_time("young"), one_at_a_time("old"):
        pass
    yesterday = time.time() - 25 * 3600
    with one_at_a_time("old-and-held"):
        for name in ("old", "old-and-held"):
            os.utime(locks_home() / f"{name}.lock", (yesterday, yesterday))
        assert remove_old_locks() == 1
    there = sorted(path.name for path in locks_home().iterdir())
    assert there == ["old-and-held.lock", "young.lock"]


def test_free_space_is_that_of_the_disk_that_a_path_will_be_on(tmp_path: Path) -> None:
    assert free_mib(tmp_path / "not" / "there") == pytest.approx(free_mib(tmp_path), abs=1024)


def test_too_little_space_names_the_folder_the_setting_and_what_to_do(tmp_path: Path) -> None:
    check_space([tmp_path, None], 0)
    with pytest.raises(DiskLow) as caught:
        check_space([None, tmp_path], 1 << 40)
    for word in (str(tmp_path), "SAMEBITS_LEAST_FREE_MIB", "samebits prune"):
        assert word in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("text", ["a lot", "-1", "nan", "inf"])
def test_a_setting_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEBITS_KEEP_DAYS", text)
    monkeypatch.setenv("SAMEBITS_LEAST_FREE_MIB", text)
    with pytest.raises(BadInput, match="SAMEBITS_KEEP_DAYS"):
        keep_days()
    with pytest.raises(BadInput, match="SAMEBITS_LEAST_FREE_MIB"):
        least_free_mib()


def test_the_settings_have_the_defaults_of_the_documentation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for setting in ("SAMEBITS_KEEP_DAYS", "SAMEBITS_LEAST_FREE_MIB"):
        monkeypatch.delenv(setting, raising=False)
    assert (least_free_mib(), keep_days()) == (2048, 30)
