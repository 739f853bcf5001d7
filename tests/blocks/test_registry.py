"""The registry's room, against a real registry, and against one that misbehaves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import bcrypt
import pytest
from pydantic import SecretStr, ValidationError

from blocks.engine import Engine, Service
from blocks.registry import Registry
from deployments import host_images
from domain.errors import RegistryRefused, RegistryUnavailable
from tests.conftest import free_port
from tests.waiting import wait_until

BASE = host_images.haproxy().name

pytestmark = pytest.mark.engine


@contextmanager
def answering(status: int, body: bytes = b"{}", **methods: int) -> Iterator[str]:
    """A server that gives one answer to everything, or another to some methods; its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(methods.get(self.command, status))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def guarded(engine: Engine, name: str) -> Iterator[Registry]:
    """A registry that asks for user and password."""
    port, container = free_port(), f"{name}-guarded"
    line = b"ci:" + bcrypt.hashpw(b"right", bcrypt.gensalt(4)) + b"\n"
    service = Service(
        container,
        host_images.registry().name,
        labels={"samebits.role": "registry"},
        ports={5000: ("127.0.0.1", port)},
        files={"/etc/htpasswd": line},
        environment={
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "test",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/etc/htpasswd",
        },
    )
    engine.create(service)
    registry = Registry(
        address=f"127.0.0.1:{port}", username="ci", password=SecretStr("right"), namespace="team"
    )
    try:
        wait_until(lambda: answers(registry), 20)
        yield registry
    finally:
        engine.remove(container)


def answers(registry: Registry) -> bool:
    try:
        registry.manifest(registry.repository("none"), "none")
    except RegistryUnavailable:
        return False
    return True


def test_the_digest_is_the_registrys_and_the_config_is_the_pushed_image(
    engine: Engine, registry: Registry
) -> None:
    image, repository = engine.image_id(BASE) or "", registry.repository("pushed")
    engine.tag(image, repository, "one")
    engine.push(repository, "one", registry.auth())
    found = registry.manifest(repository, "one")
    assert found
    assert found.holds(image)
    assert registry.manifest(repository, found.digest) == found
    engine.remove_image(f"{repository}:one")
    engine.pull(f"{repository}@{found.digest}")
    assert engine.image_id(f"{repository}@{found.digest}") == image
    engine.remove_image(f"{repository}@{found.digest}")


def test_a_tag_that_is_not_there_is_none(registry: Registry) -> None:
    assert registry.manifest(registry.repository("nobody"), "none") is None


def test_user_password_and_namespace_are_used(engine: Engine, guarded: Registry) -> None:
    repository = guarded.repository("hello")
    assert repository == f"{guarded.address}/team/hello"
    engine.tag(engine.image_id(BASE) or "", repository, "one")
    engine.push(repository, "one", guarded.auth())
    assert guarded.manifest(repository, "one")
    engine.remove_image(f"{repository}:one")


def test_a_refused_password_is_never_retried_and_never_shown(
    engine: Engine, guarded: Registry
) -> None:
    wrong = guarded.model_copy(update={"password": SecretStr("wr0ng-pass")})
    repository = wrong.repository("hello")
    engine.tag(engine.image_id(BASE) or "", repository, "two")
    for action in (
        lambda: wrong.manifest(repository, "two"),
        lambda: engine.push(repository, "two", wrong.auth()),
        lambda: engine.pull(f"{repository}:one", wrong.auth()),
    ):
        with pytest.raises(RegistryRefused, match="password") as caught:
            action()
        assert not caught.value.retryable
        assert "wr0ng-pass" not in f"{caught.value} {wrong!r}"
    engine.remove_image(f"{repository}:two")


def test_a_registry_that_is_down_is_worth_a_second_try(engine: Engine) -> None:
    registry = Registry(address=f"127.0.0.1:{free_port()}")
    repository = registry.repository("hello")
    engine.tag(engine.image_id(BASE) or "", repository, "one")
    for action in (
        lambda: registry.manifest(repository, "one"),
        lambda: engine.push(repository, "one", None),
        lambda: engine.pull(f"{repository}:one"),
    ):
        with pytest.raises(RegistryUnavailable) as caught:
            action()
        assert caught.value.retryable
    engine.remove_image(f"{repository}:one")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_answer_that_passes_is_worth_a_second_try(status: int) -> None:
    with answering(status) as address, pytest.raises(RegistryUnavailable, match=str(status)):
        Registry(address=address).manifest(f"{address}/hello", "one")


def test_a_push_whose_manifest_meets_a_500_is_an_error_that_can_heal(engine: Engine) -> None:
    # Every layer is there already, and the SDK raises nothing: the fault is a line in its stream.
    with answering(200, PUT=500) as address:
        repository = f"{address}/hello"
        engine.tag(engine.image_id(BASE) or "", repository, "one")
        with pytest.raises(RegistryUnavailable):
            engine.push(repository, "one", None)
        engine.remove_image(f"{repository}:one")


def test_an_answer_that_is_no_manifest_is_refused() -> None:
    with answering(200, b"<html>") as address, pytest.raises(RegistryRefused, match="manifest"):
        Registry(address=address).manifest(f"{address}/hello", "one")


@pytest.mark.parametrize("address", ["", "https://example.com", "user@example.com", "a/b"])
def test_an_address_is_host_and_port_only(address: str) -> None:
    with pytest.raises(ValidationError):
        Registry(address=address)
