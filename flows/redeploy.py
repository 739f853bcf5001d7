"""Put a published, and so tested, image on a stack again: rerun, promotion, rollback."""

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.contracts import ImageRegistry
from blocks.loading import load
from blocks.named import registry_of
from blocks.prefect_api import name_run, recorded_image, run_log, stacks_of
from blocks.repository import GitHubRepository
from domain.errors import BadInput, NotPublished, UnknownStack
from domain.image import PublishedImage
from domain.names import checked_branch, checked_digest, checked_name, checked_sha
from flows.steps import deploy


@flow(name="redeploy", on_running=[name_run])
async def redeploy(
    repository: str, stack: str, image: str, reason: str = "", branch: str = ""
) -> State[str]:
    """Put the published image of a commit, or a digest, on a stack: rerun, promotion, rollback.

    Args:
        repository: Name of the repository, e.g. hello-service
        stack: Stack to put it on, e.g. prod
        image: Full SHA of a published commit, or a digest sha256:…
        reason: Why, for those who read it later; needed to go back in git's history
        branch: Only for what the system starts by itself: the branch whose order it obeys

    """
    run_log()(f"Redeploy of {image} to {stack}: {reason or 'no reason was given'}")
    allowed = await stacks_of(checked_name(repository))
    if stack not in allowed:
        raise UnknownStack(
            f"{stack!r} is not a stack of {repository}.",
            hint=f"In prefect.yaml it has: {', '.join(sorted(allowed)) or 'none'}.",
        )
    found = published_image(repository, image.strip().lower())
    if not branch:
        return deploy(found, stack, reason)
    commit = found.commit.model_copy(update={"branch": checked_branch(branch)})
    return deploy(found.model_copy(update={"commit": commit}), stack)


def published_image(repository: str, image: str) -> PublishedImage:
    """The image that a passed pipeline published; raises NotPublished for any other."""
    registry = registry_of(load(GitHubRepository, repository))
    place = registry.repository(repository)
    if image.startswith("sha256:"):
        found = recorded_image(checked_digest(image))
    else:
        found = recorded_image(_digest_of(registry, place, image), sha=image)
    if found is None or found.commit.repository != repository:
        raise NotPublished(
            f"No passed pipeline of {repository} has published {image}.",
            hint="Push the commit to a branch that deploys, and let its tests pass first.",
        )
    if found.repository != place:
        raise NotPublished(
            f"{image} is in {found.repository}, but {repository} is published to {place} now.",
            hint="Set the registry in the repository's block back, or push a new commit.",
        )
    return found


def _digest_of(registry: ImageRegistry, repository: str, sha: str) -> str:
    try:
        checked_sha(sha)
    except BadInput as error:
        raise BadInput(error.what, hint="Give all 40 digits of the commit, or a digest.") from None
    manifest = registry.manifest(repository, sha)
    if manifest is None:
        raise NotPublished(
            f"The registry has no image of commit {sha} in {repository}.",
            hint="Push the commit to a branch that deploys, and let its tests pass first.",
        )
    return manifest.digest
