"""Whether an image may take the place of what serves: flows/admission.py, asked of real git."""

import pytest

from blocks.repository import GitHubRepository
from domain.commit import Commit
from domain.errors import ReasonMissing, Superseded
from domain.image import PublishedImage, Serving
from flows import admission
from flows.admission import only_forward, with_reason
from tests.conftest import Origin

DIGEST, ID = "sha256:" + "d" * 64, "sha256:" + "1" * 64


def published(sha: str, branch: str = "master") -> PublishedImage:
    commit = Commit(repository="hello", branch=branch, sha=sha)
    return PublishedImage(commit=commit, image_id=ID, repository="host/hello", digest=DIGEST)


@pytest.fixture
def records(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> list[PublishedImage]:
    """What was published as the digest that serves, the latest first."""
    found: list[PublishedImage] = []
    monkeypatch.setattr(admission, "recorded_images", lambda _: found)
    return found


def test_a_stack_that_says_only_its_digest_does_not_go_back_behind_a_revert(
    origin: Origin, records: list[PublishedImage]
) -> None:
    first, second = origin.push({"a": "1"}), origin.push({"a": "2"})
    revert = origin.push({"a": "1"})
    serving = Serving(digest=DIGEST, sha="")
    # The older commit of that content was published once more, for another branch.
    records[:] = [published(first, "release"), published(revert), published(first)]
    with pytest.raises(Superseded) as gone:
        only_forward(origin.block, Commit(repository="hello", branch="master", sha=second))(serving)
    assert gone.value.by == revert
    newer = origin.push({"a": "3"})
    only_forward(origin.block, Commit(repository="hello", branch="master", sha=newer))(serving)


def test_what_a_stack_says_of_itself_counts_more_than_what_was_published(
    origin: Origin, records: list[PublishedImage]
) -> None:
    first, second = origin.push({"a": "1"}), origin.push({"a": "2"})
    records[:] = [published(second), published(first)]
    only_forward(origin.block, Commit(repository="hello", branch="master", sha=second))(
        Serving(digest=DIGEST, sha=first)
    )
    with pytest.raises(Superseded):
        only_forward(origin.block, Commit(repository="hello", branch="master", sha=first))(
            Serving(digest=DIGEST, sha=second)
        )


def test_before_the_traffic_is_turned_over_git_is_asked_again(
    origin: Origin, records: list[PublishedImage]
) -> None:
    first, second = origin.push({"a": "1"}), origin.push({"a": "2"})
    serving = Serving(digest=DIGEST, sha=first)
    admit = only_forward(origin.block, Commit(repository="hello", branch="master", sha=second))
    admit(serving)
    origin.push({"a": "3"})
    admit(serving)  # the branch has gone on, and has this commit still
    origin.push_ref(first, "master", force=True)
    with pytest.raises(Superseded):
        admit(serving)


def test_while_the_branch_stands_still_its_head_alone_is_asked_for(
    origin: Origin, records: list[PublishedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = origin.push({"a": "1"}), origin.push({"a": "2"})
    admit = only_forward(origin.block, Commit(repository="hello", branch="master", sha=second))
    admit(Serving(digest=DIGEST, sha=first))
    monkeypatch.setattr(GitHubRepository, "standing", None)
    admit(Serving(digest=DIGEST, sha=first))


def test_a_person_goes_back_with_a_reason_only(
    origin: Origin, records: list[PublishedImage]
) -> None:
    first, second = origin.push({"a": "1"}), origin.push({"a": "2"})
    records[:] = [published(second)]
    back, serving = published(first).commit, Serving(digest=DIGEST, sha="")
    with_reason(origin.block, back, "the new one is slow")(serving)
    with pytest.raises(ReasonMissing):
        with_reason(origin.block, back, " ")(serving)


def test_onto_an_empty_stack_everything_on_its_branch_may_go(
    origin: Origin, records: list[PublishedImage]
) -> None:
    assert not records
    sha = origin.push({"a": "1"})
    only_forward(origin.block, Commit(repository="hello", branch="master", sha=sha))(None)
