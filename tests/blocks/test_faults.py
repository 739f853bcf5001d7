"""What the engine says, as errors of ours."""

import pytest

from blocks.engine.faults import engine_error, push_error
from domain.errors import DiskFull, EngineRefused, RegistryRefused, RegistryUnavailable


@pytest.mark.parametrize(
    "message",
    [
        "received unexpected HTTP status: 503 Service Unavailable",
        "Get https://r/v2/: dial tcp 10.0.0.1:443: connect: connection refused",
        "net/http: TLS handshake timeout",
        "unexpected EOF",
        "dial tcp: lookup r on 10.0.0.2:53: no such host",
        "toomanyrequests: You have reached your pull rate limit",
    ],
)
def test_what_passes_by_itself_is_worth_a_second_try(message: str) -> None:
    error = push_error("r/hello:1", message)
    assert isinstance(error, RegistryUnavailable)
    assert error.retryable


def test_digits_in_the_name_of_an_image_mean_nothing() -> None:
    reference = "r/hello@sha256:" + "401503" * 10
    error = push_error(reference, f"Get {reference}: connection refused")
    assert isinstance(error, RegistryUnavailable)
    error = push_error(reference, f"{reference}: not found")
    assert isinstance(error, RegistryRefused)


@pytest.mark.parametrize(
    "message",
    [
        "unauthorized: authentication required",
        "denied: requested access to the resource is denied",
        "no basic auth credentials",
        "manifest invalid: manifest invalid",
        "manifest for r/hello@sha256:503aaa not found: manifest unknown",
    ],
)
def test_what_a_person_has_to_mend_is_not_tried_again(message: str) -> None:
    error = push_error("r/hello:1", message)
    assert isinstance(error, RegistryRefused)
    assert not error.retryable


def test_a_full_disk_is_named_wherever_it_shows() -> None:
    message = "write /var/lib/docker/tmp/x: no space left on device"
    for error in (engine_error("building", message), push_error("r/hello:1", message)):
        assert isinstance(error, DiskFull)
        assert "Free space" in str(error)
    assert isinstance(engine_error("building", "no such thing"), EngineRefused)
