"""Branch names, compared with git itself."""

import subprocess

from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.names import checked_branch

_OURS_ONLY = ("-", "HEAD", "@")
"""git takes these as references, but no command line and no branch does."""

names = st.one_of(
    st.text("ab/.-@{~^:?*[\\ <ü", min_size=1, max_size=8),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.lists(st.sampled_from(["a", ".lock", "/", ".", "-", "@", "{"]), max_size=5).map("".join),
)


@settings(max_examples=100, deadline=None, database=None)
@example("a.lock/b")
@example("a/.b")
@example("@")
@example("a./b")
@given(names)
def test_a_branch_name_is_taken_where_git_takes_it(name: str) -> None:
    git = subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False)
    try:
        taken = checked_branch(name) == name
    except BadInput:
        taken = False
    ours = name.startswith("-") or name in _OURS_ONLY
    assert taken == (git.returncode == 0 and not ours)
