"""What ECR's scan finds, and what a deploy makes of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from prefect_aws import AwsCredentials

from blocks.aws import EcrRegistry, ecr
from blocks.aws.scan import Scan, scan_of
from blocks.engine import Engine
from deployments import example
from domain.commit import Commit
from domain.errors import VulnerableImage
from domain.findings import Finding, Findings, Severity
from domain.image import PublishedImage
from tests.aws.publishing import publishing
from tests.aws.stacks import Account, running_account
from tests.conftest import RunningRegistry
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

LOOKS = "ecr:DescribeImageScanFindings"
DIGEST = f"sha256:{'1' * 64}"
IMAGE = PublishedImage(
    commit=Commit(repository="hello", branch="master", sha="a" * 40),
    image_id=DIGEST,
    repository="r/hello",
    digest=DIGEST,
)


@pytest.fixture(scope="module")
def account(running_registry: RunningRegistry, name: str) -> Iterator[Account]:
    with running_account(running_registry.block.address, f"{name}-ecr") as account:
        yield account


@pytest.fixture
def image(account: Account, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A published image that nobody has scanned, and a room that looks often."""
    monkeypatch.setattr(ecr, "_POLL_SECONDS", 0.02)
    with publishing(engine) as images:
        image = images.publish(account.registry(), images.image())
        account.cloud.calls.clear()
        yield image


def found(account: Account, image: PublishedImage, status: str = "COMPLETE", **counts: int) -> None:
    account.cloud.set_findings(example.NAME, image.digest, counts, status)


def looks(account: Account) -> int:
    return account.cloud.calls.actions().count(LOOKS)


def refused(scan: Scan, limit: Severity) -> list[str]:
    """The log of the refusal of an image with this scan."""
    registry = EcrRegistry(credentials=AwsCredentials(), refuse_severity=limit)
    with (
        patch.object(EcrRegistry, "_scan", lambda *_: scan),
        pytest.raises(VulnerableImage) as error,
    ):
        registry.admit(IMAGE, print)
    return list(error.value.log)


@contextmanager
def once_looked_at(account: Account, image: PublishedImage, **counts: int) -> Iterator[None]:
    """The scan is complete as soon as the room has seen some times that it is not."""

    def complete() -> None:
        # A look counts from its question on: once the fourth is asked, three were answered.
        wait_until(lambda: looks(account) >= 4, 20)
        found(account, image, **counts)

    thread = threading.Thread(target=complete)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def admitted(account: Account, image: PublishedImage, **fields: Any) -> list[str]:
    """What the room says of an image that it admits."""
    told: list[str] = []
    account.registry(**fields).admit(image, told.append)
    return told


def test_a_scan_is_shown_only_once_it_is_complete(account: Account, image: PublishedImage) -> None:
    registry = account.registry()
    assert registry.findings(image) is None
    for status in ("PENDING", "IN_PROGRESS", "FAILED", "UNSUPPORTED_IMAGE"):
        found(account, image, status)
        assert registry.findings(image) is None
    found(account, image)
    assert registry.findings(image) == Findings(counts={})
    found(account, image, LOW=7, CRITICAL=1, HIGH=2)
    findings = registry.findings(image)
    assert findings
    assert findings.summary == "1 critical, 2 high, 7 low"
    assert [f.severity for f in findings.some] == ["CRITICAL", "HIGH", "HIGH", "LOW", "LOW", "LOW"]
    assert findings.some[0].url == f"https://nvd.nist.gov/vuln/detail/{findings.some[0].name}"


def test_the_worst_are_shown_where_not_all_are(account: Account, image: PublishedImage) -> None:
    many = {f"WORD{number}": 3 for number in range(8)}
    found(account, image, **many, CRITICAL=1)
    findings = account.registry().findings(image)
    assert findings
    assert len(findings.some) == 20
    assert findings.some[0].severity == "CRITICAL"


def test_the_findings_of_enhanced_scanning_are_shown_alike() -> None:
    scan = {
        "findingSeverityCounts": {"HIGH": 1, "CRITICAL": 1},
        "enhancedFindings": [
            {"title": "CVE-2026-1 - openssl", "severity": "HIGH"},
            {"title": "CVE-2026-2 - zlib", "severity": "CRITICAL"},
        ],
    }
    findings = scan_of([{"imageScanFindings": scan}]).findings
    assert findings.summary == "1 critical, 1 high"
    assert [f.name for f in findings.some] == ["CVE-2026-2 - zlib", "CVE-2026-1 - openssl"]


def test_findings_that_come_in_pages_are_all_counted_whatever_the_counts_say() -> None:
    low = [{"title": f"CVE-{number}", "severity": "LOW"} for number in range(100)]
    last = [{"title": "CVE-100", "severity": "CRITICAL"}]
    pages = [
        {"findingSeverityCounts": {"LOW": 100}, "enhancedFindings": low},
        {"enhancedFindings": last},
    ]
    status = {"status": "ACTIVE"}
    scan = scan_of({"imageScanStatus": status, "imageScanFindings": page} for page in pages)
    assert scan.done
    assert scan.findings.summary == "1 critical, 100 low"
    assert scan.findings.some[0].severity == "CRITICAL"


BARE = {"imageScanStatus": {"status": "COMPLETE"}, "imageScanFindings": {"findings": []}}


def test_a_scan_that_is_complete_before_it_has_its_findings_is_waited_for(
    account: Account, image: PublishedImage
) -> None:
    account.cloud.set_answer(example.NAME, image.digest, BARE)
    assert account.registry().findings(image) is None
    with once_looked_at(account, image, CRITICAL=1), pytest.raises(VulnerableImage):
        admitted(account, image, refuse_severity=Severity.CRITICAL)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The room's time, which passes only while it waits; the last one is now."""
    times = [0.0]
    waits = SimpleNamespace(
        monotonic=lambda: times[-1], sleep=lambda seconds: times.append(times[-1] + seconds)
    )
    monkeypatch.setattr(ecr, "time", waits)
    monkeypatch.setattr(ecr, "_POLL_SECONDS", 1)
    return times


def room(monkeypatch: pytest.MonkeyPatch, clock: list[float], *looks: tuple[float, Scan]) -> Any:
    """A registry that refuses CRITICAL; its scan is each of these, from that second on."""

    def scan(*_: object) -> Scan:
        return [one for since, one in looks if since <= clock[-1]][-1]

    monkeypatch.setattr(EcrRegistry, "_scan", scan)
    return EcrRegistry(credentials=AwsCredentials(), refuse_severity=Severity.CRITICAL)


UNDER_WAY, DOUBTFUL = Scan("IN_PROGRESS"), Scan("COMPLETE", bare=True)
CRITICAL = Scan("COMPLETE", findings=Findings(counts={"CRITICAL": 1}))


def test_a_scan_that_is_bare_after_a_long_wait_is_still_doubted(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    registry = room(monkeypatch, clock, (0, UNDER_WAY), (200, DOUBTFUL), (230, CRITICAL))
    with pytest.raises(VulnerableImage, match="found 1 critical"):
        registry.admit(IMAGE, print)


def test_a_scan_that_stays_bare_is_taken_for_a_clean_one_after_a_minute_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    log = list[str]()
    room(monkeypatch, clock, (0, UNDER_WAY), (100, DOUBTFUL)).admit(IMAGE, log.append)
    assert clock[-1] == 160
    assert "but without a finding, a count or a time; taken for nothing found" in log[0]
    assert log[1:] == ["The scan is complete, with nothing found: admitted"]


def test_a_scan_that_is_still_doubted_when_the_time_is_over_is_no_result(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    registry = room(monkeypatch, clock, (0, UNDER_WAY), (290, DOUBTFUL))
    with pytest.raises(VulnerableImage, match=r"no scan of .*: COMPLETE, but without a finding"):
        registry.admit(IMAGE, print)
    assert clock[-1] == 300


@pytest.mark.parametrize("status", [None, "IN_PROGRESS", "FAILED", "COMPLETE"])
def test_without_a_limit_every_image_is_admitted_at_once(
    account: Account, image: PublishedImage, status: str | None
) -> None:
    if status:
        found(account, image, status, CRITICAL=5)
    assert admitted(account, image) == []
    assert looks(account) == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_scan_is_waited_for_and_what_is_below_the_limit_admitted(
    account: Account, image: PublishedImage, *, begun: bool
) -> None:
    if begun:
        found(account, image, "IN_PROGRESS")
    with once_looked_at(account, image, HIGH=3):
        told = admitted(account, image, refuse_severity=Severity.CRITICAL)
    assert told == ["The scan is complete, with 3 high: admitted"]
    assert looks(account) >= 4


def test_a_critical_finding_that_the_scan_ends_with_is_refused(
    account: Account, image: PublishedImage
) -> None:
    found(account, image, "IN_PROGRESS")
    with once_looked_at(account, image, CRITICAL=1, LOW=2), pytest.raises(VulnerableImage) as error:
        admitted(account, image, refuse_severity=Severity.CRITICAL)
    assert f"The scan of {image.reference} found 1 critical, 2 low." in error.value.what
    assert error.value.why.startswith("1 of these are CRITICAL or worse")
    [only] = error.value.log
    assert only.startswith("critical CVE-2024-0001 https://")
    assert not error.value.retryable


def test_the_message_of_a_refused_image_shows_what_refused_it() -> None:
    """It shows the last lines of an error's log: the worst must not scroll away."""
    many = tuple(
        Finding(name=f"CVE-{number}", severity="CRITICAL" if number < 2 else "LOW")
        for number in range(20)
    )
    scan = Scan("COMPLETE", findings=Findings(counts={"CRITICAL": 2, "LOW": 18}, some=many))
    log = refused(scan, Severity.CRITICAL)
    assert log == ["critical CVE-0", "critical CVE-1"]
    everything = refused(scan, Severity.LOW)
    assert everything[0] == "critical CVE-0"
    assert len(everything) == 12


@pytest.mark.parametrize(
    ("limit", "admits"),
    [
        (Severity.CRITICAL, True),
        (Severity.HIGH, False),
        (Severity.MEDIUM, False),
        (Severity.LOW, False),
    ],
)
def test_what_is_as_bad_as_the_limit_or_worse_is_refused(
    account: Account, image: PublishedImage, limit: Severity, *, admits: bool
) -> None:
    found(account, image, HIGH=1, INFORMATIONAL=9)
    if admits:
        assert admitted(account, image, refuse_severity=limit)
        return
    with pytest.raises(VulnerableImage, match="found 1 high"):
        admitted(account, image, refuse_severity=limit)


@pytest.mark.parametrize(
    ("status", "said", "remedy"),
    [
        (None, "none was started", "raise scan_timeout_seconds"),
        ("IN_PROGRESS", "IN_PROGRESS (Told by ECR)", "raise scan_timeout_seconds"),
        ("FAILED", "FAILED (Told by ECR)", "start-image-scan"),
        ("UNSUPPORTED_IMAGE", "UNSUPPORTED_IMAGE (Told by ECR)", "build on a base image"),
    ],
)
def test_an_image_without_a_result_in_time_is_refused(
    account: Account, image: PublishedImage, status: str | None, said: str, remedy: str
) -> None:
    if status:
        found(account, image, status)
    with pytest.raises(VulnerableImage) as error:
        admitted(account, image, refuse_severity=Severity.LOW, scan_timeout_seconds=1)
    assert f"no scan of {image.reference}: {said}." in error.value.what
    assert remedy in error.value.hint
    waits = status in (None, "IN_PROGRESS")
    assert (looks(account) > 2) == waits
