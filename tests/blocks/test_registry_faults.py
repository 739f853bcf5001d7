"""The step publish, before a real registry whose door fails for a while."""

import hashlib
import random
import secrets
from collections.abc import Callable, Iterator

import httpx
import pytest

from blocks.engine import DockerHost, Engine
from blocks.registry import Registry
from domain.errors import SamebitsError
from domain.image import PublishedImage, TestedImage
from flows import steps
from tests.aws.publishing import Publishing, publishing
from tests.conftest import RunningRegistry
from tests.fault_plugin import fault
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy

FAULTS = "registry: 503, connection reset, manifest 500, 'done but the answer was lost'"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
Meant = Callable[[str, str], bool]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def puts_manifest(method: str, path: str) -> bool:
    return method == "PUT" and "/manifests/" in path


def reads_manifest(method: str, path: str) -> bool:
    return method == "GET" and "/manifests/" in path


def moves_layer(method: str, path: str) -> bool:
    return "/blobs/" in path


def greets(method: str, path: str) -> bool:
    return path == "/v2/"


def anything(method: str, path: str) -> bool:
    return True


WHERE: dict[Fault, list[tuple[Meant, int]]] = {
    Fault.UNAVAILABLE: [(w, 8) for w in (puts_manifest, reads_manifest, moves_layer, anything)],
    # The engine tries a layer again itself, 5 s later, then 10 s.
    Fault.RESET: [(puts_manifest, 8), (reads_manifest, 8), (greets, 8), (moves_layer, 2)],
    Fault.BROKEN: [(puts_manifest, 8)],
    Fault.LOST: [(puts_manifest, 3)],
}
"""What each fault is meant for, and how often it happens at most"""


class House:
    """The step, with its registry behind the proxy, and what it has recorded as published."""

    def __init__(
        self,
        images: Publishing,
        proxy: FaultyProxy,
        running: RunningRegistry,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.images, self.proxy, self.real = images, proxy, running.block.address
        self.recorded: list[PublishedImage] = []
        registry = Registry(address=proxy.address)
        monkeypatch.setattr(steps, "load", lambda *_: None)
        monkeypatch.setattr(steps, "registry_of", lambda _: registry)
        monkeypatch.setattr(steps, "_engine", lambda: Engine(DockerHost()))
        monkeypatch.setattr(steps, "run_log", lambda: lambda _: None)
        monkeypatch.setattr(steps, "record_image", self.recorded.append)

    def publish(self, image: TestedImage) -> tuple[PublishedImage | None, list[SamebitsError]]:
        """Publish as Prefect does: again for as long as the step's policy has it."""
        errors: list[SamebitsError] = []
        for _ in range(steps.publish.retries + 1):
            try:
                return steps.publish.fn(image), errors
            except SamebitsError as error:
                errors.append(error)
                if not error.retryable:
                    break
        return None, errors

    def check(self, image: TestedImage, published: PublishedImage) -> None:
        """The registry holds, under this digest, the image that was tested."""
        url = f"http://{self.real}/v2/{image.commit.repository}/manifests/{image.commit.sha}"
        answer = httpx.get(url, headers={"Accept": MANIFEST}).raise_for_status()
        assert published.digest == f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        assert image.image_id in (published.digest, answer.json()["config"]["digest"])
        assert published.image_id == image.image_id
        assert published.reference == (
            f"{self.proxy.address}/{image.commit.repository}@{published.digest}"
        )


@pytest.fixture
def house(
    engine: Engine, running_registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    with publishing(engine) as images, faulty_proxy(running_registry.block.address) as proxy:
        yield House(images, proxy, running_registry, monkeypatch)


@fault(FAULTS, trials=25, quick=1)
@pytest.mark.parametrize("kind", Fault)
def test_a_registry_that_fails_for_a_while_is_never_a_false_green(
    house: House, kind: Fault, trial: int, chance: random.Random
) -> None:
    meant, most = WHERE[kind][0] if trial == 0 else chance.choice(WHERE[kind])
    times = chance.randint(1, most)
    image = house.images.image(f"faulty-{secrets.token_hex(4)}")
    house.proxy.inject(kind, times, meant)
    published, errors = house.publish(image)
    print(f"{kind} {times} times, {meant.__name__}: {[type(e).__name__ for e in errors]}")
    assert house.proxy.met > 0
    assert all(error.retryable for error in errors), errors
    if published is None:
        # It was tried as often as the step allows, and ends with the reason; its retry passes.
        assert len(errors) == steps.publish.retries + 1
        assert house.recorded == []
        house.proxy.inject(kind, 0, meant)
        published, errors = house.publish(image)
        assert errors == []
    assert published
    house.check(image, published)
    assert house.recorded == [published]
