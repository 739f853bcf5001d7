"""The bits that were tested are the bits that are published, or nothing is."""

import pytest
from pydantic import ValidationError

from domain.commit import Commit
from domain.errors import ImageChanged
from domain.image import BuiltImage, Manifest, TestedImage, same_bits

CONFIG, MANIFEST, OTHER = (f"sha256:{digit * 64}" for digit in "123")
COMMIT = Commit(repository="hello", branch="master", sha="a" * 40)
REPOSITORY = "127.0.0.1:4250/hello"


@pytest.mark.parametrize("image_id", [CONFIG, MANIFEST])
def test_an_image_is_the_same_by_its_config_or_by_its_manifest(image_id: str) -> None:
    tested = TestedImage(commit=COMMIT, image_id=image_id)
    published = same_bits(tested, Manifest(digest=MANIFEST, config_digest=CONFIG), REPOSITORY)
    assert published.commit == COMMIT
    assert published.image_id == image_id
    assert published.reference == f"{REPOSITORY}@{MANIFEST}"


@pytest.mark.parametrize("config", [CONFIG, None])
def test_another_image_is_not_taken_for_the_tested_one(config: str | None) -> None:
    tested = TestedImage(commit=COMMIT, image_id=OTHER)
    with pytest.raises(ImageChanged, match="Nothing was deployed") as changed:
        same_bits(tested, Manifest(digest=MANIFEST, config_digest=config), REPOSITORY)
    assert OTHER in str(changed.value)
    assert MANIFEST in str(changed.value)


@pytest.mark.parametrize("image_id", ["", "hello:latest", "1" * 64, CONFIG + "\n"])
def test_an_image_is_named_by_its_whole_id_and_by_nothing_else(image_id: str) -> None:
    for kind in (BuiltImage, TestedImage):
        with pytest.raises(ValidationError):
            kind(commit=COMMIT, image_id=image_id)
