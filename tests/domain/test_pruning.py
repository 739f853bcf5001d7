"""Which images go: never one that anybody needs, and each one that nobody does."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.image import KEY_LABEL, REVISION_LABEL, SOURCE_LABEL
from domain.pruning import Needed, Pruned, StoredImage, size, superfluous

URL = "https://github.com/team/hello.git"
SOURCES = {URL: {"hello"}, "/srv/other.git": {"other"}}
NOW = datetime(2026, 11, 26, 3, 30, tzinfo=UTC)
BEFORE = NOW - timedelta(days=30)

keys = st.integers(0, 16**64 - 1).map("{:064x}".format)
ids = keys.map("sha256:{}".format)
shas = st.integers(0, 16**40 - 1).map("{:040x}".format)


@st.composite
def old_images(draw: st.DrawFn) -> StoredImage:
    """Images of ours that nothing needs, as pipelines leave them: named, published or nameless."""
    key, sha = draw(keys), draw(shas)
    names = [
        f"samebits-build/hello:{key}",
        f"127.0.0.1:4250/hello:{sha}",
        f"registry.example.com/team/hello:{draw(shas)}",
        f"127.0.0.1:4250/hello@{draw(ids)}",
    ]
    return StoredImage(
        id=draw(ids),
        names=tuple(draw(st.lists(st.sampled_from(names), unique=True))),
        labels={SOURCE_LABEL: URL, REVISION_LABEL: sha, KEY_LABEL: key},
        used=BEFORE - draw(st.timedeltas(timedelta(seconds=1), timedelta(days=9999))),
    )


def digest_of(image: StoredImage) -> str:
    return max(image.digests, key=lambda digest: digest != image.id)


Reason = Callable[[StoredImage, Needed], tuple[StoredImage, Needed]]


def changed(image: StoredImage, **values: object) -> StoredImage:
    return StoredImage.model_validate(image.model_dump() | values)


REASONS: dict[str, Reason] = {
    "a container uses it": lambda i, n: (i, n.model_copy(update={"image_ids": {i.id}})),
    "a stack runs its digest": lambda i, n: (i, n.model_copy(update={"digests": {digest_of(i)}})),
    "a recent run is of its commit": lambda i, n: (
        i,
        n.model_copy(update={"shas": {i.labels[REVISION_LABEL]}}),
    ),
    "a step took it lately": lambda i, n: (changed(i, used=NOW - timedelta(days=29)), n),
    "it is of a repository that this system does not have": lambda i, n: (
        changed(i, labels=i.labels | {SOURCE_LABEL: "https://github.com/others/hello.git"}),
        n,
    ),
    "a person has named it": lambda i, n: (changed(i, names=(*i.names, "hello:keep")), n),
    "it has the name of another repository": lambda i, n: (
        changed(i, names=(*i.names, f"samebits-build/other:{'a' * 64}")),
        n,
    ),
    "no pipeline has built it": lambda i, n: (changed(i, labels={SOURCE_LABEL: URL}), n),
}


@settings(max_examples=25)
@given(old_images())
def test_an_old_image_that_nothing_needs_goes(image: StoredImage) -> None:
    assert superfluous([image], SOURCES, Needed(), BEFORE) == [image]


@pytest.mark.parametrize("reason", REASONS)
@settings(max_examples=25)
@given(image=old_images())
def test_one_reason_is_enough_for_an_image_to_stay(reason: str, image: StoredImage) -> None:
    image, needed = REASONS[reason](image, Needed())
    assert superfluous([image], SOURCES, needed, BEFORE) == []


@settings(max_examples=25)
@given(st.lists(old_images(), max_size=4), st.data())
def test_each_image_is_looked_at_by_itself(images: list[StoredImage], data: st.DataObject) -> None:
    used = data.draw(st.sets(st.sampled_from([i.id for i in images]))) if images else set()
    needed = Needed(image_ids=frozenset(used))
    gone = superfluous(images, SOURCES, needed, BEFORE)
    assert gone == [image for image in images if image.id not in used]


@settings(max_examples=25)
@given(old_images())
def test_an_image_that_has_the_tag_of_a_commit_of_a_recent_run_stays(image: StoredImage) -> None:
    sha = "c" * 40
    named = changed(image, names=(*image.names, f"127.0.0.1:4250/hello:{sha}"))
    assert superfluous([named], SOURCES, Needed(shas=frozenset({sha})), BEFORE) == []


def test_images_of_no_pipeline_stay_however_old() -> None:
    old = datetime.min.replace(tzinfo=UTC)
    images = [
        StoredImage(id=f"sha256:{number:064}", names=(name,), used=old)
        for number, name in enumerate(
            ["samebits/python:local", "samebits/haproxy:local", "registry:2", "haproxy:2.8-alpine"]
        )
    ]
    assert superfluous(images, SOURCES, Needed(), NOW) == []


def test_a_label_that_is_no_key_is_not_one_of_a_build() -> None:
    labels = {SOURCE_LABEL: URL, KEY_LABEL: "../../etc/passwd"}
    image = StoredImage(id="sha256:" + "0" * 64, labels=labels, used=BEFORE - timedelta(days=1))
    assert superfluous([image], SOURCES, Needed(), BEFORE) == []


@pytest.mark.parametrize(
    ("pruned", "said"),
    [
        (Pruned(), "Nothing was to be removed."),
        (Pruned(freed_bytes=5 << 30), "Nothing was to be removed."),
        (
            Pruned(containers=("one", "two"), mirrors=("hello",), freed_bytes=0),
            "Removed 2 containers of tests, 1 mirror; 0 bytes more are free.",
        ),
        (
            Pruned(cache_bytes=3 << 29, locks=1),
            "Removed 1.5 GiB of build cache, 1 lock file.",
        ),
    ],
)
def test_the_summary_says_what_went_and_how_much_is_free(pruned: Pruned, said: str) -> None:
    assert pruned.summary == said


def test_the_report_names_each_image_with_its_commit_and_what_was_left_alone() -> None:
    image = StoredImage(
        id="sha256:" + "1" * 64,
        names=(f"samebits-build/hello:{'2' * 64}",),
        labels={REVISION_LABEL: "3" * 40},
        used=NOW,
        size_bytes=72 << 20,
    )
    text = Pruned(images=(image,), mirrors=("gone",), notes=("Left: hello.",)).markdown()
    assert text.startswith("Removed 1 image, 1 mirror.\n\nLeft: hello.\n")
    assert "| `samebits-build/hello:222222222222…` | 33333333 | 2026-11-26 | 72.0 MiB |" in text
    assert "Mirrors: `gone`" in text


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 20, "1.0 MiB"), (1 << 50, "1024.0 TiB")],
)
def test_a_size_is_in_the_unit_that_people_read(count: int, said: str) -> None:
    assert size(count) == said
