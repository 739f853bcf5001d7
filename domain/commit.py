"""A commit, as the pipeline knows it."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from domain.names import checked_branch, checked_name, checked_sha, one_line

ANY_BRANCH = "*"


def _branch_or_any(text: str) -> str:
    return text if text == ANY_BRANCH else checked_branch(text)


def _sha_or_head(text: str) -> str:
    return text if text == "" else checked_sha(text)


class Commit(BaseModel):
    """What is built: a commit on a branch of a configured repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: Annotated[str, AfterValidator(checked_name)] = Field(
        description="Name of the repository's block, e.g. hello-service"
    )
    branch: Annotated[str, AfterValidator(_branch_or_any)] = Field(
        description="Branch, e.g. master. In a deployment, * stands for every branch that has no "
        "deployment of its own."
    )
    sha: Annotated[str, AfterValidator(_sha_or_head)] = Field(
        default="", description="Full commit SHA; empty means the head of the branch"
    )
    subject: Annotated[str, AfterValidator(one_line)] = Field(
        default="", description="First line of the commit's message"
    )
    author: Annotated[str, AfterValidator(one_line)] = Field(
        default="", description="Who wrote the commit"
    )

    @property
    def short_sha(self) -> str:
        """The first eight digits; `head` where the commit is still to be looked up."""
        return self.sha[:8] or "head"

    @property
    def shown_branch(self) -> str:
        """The branch for people: on one line, and without what turns the direction of writing."""
        return one_line(self.branch, 240) or (self.branch and ascii(self.branch))

    @property
    def title(self) -> str:
        """What a run is called: branch, short SHA and subject."""
        return f"{self.shown_branch} {self.short_sha} {self.subject}".strip()
