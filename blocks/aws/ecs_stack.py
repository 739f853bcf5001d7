"""A stack on Amazon ECS: a service that runs the image by digest."""

from typing import ClassVar

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from pydantic import ConfigDict, Field

from blocks.aws.connection import Aws
from blocks.aws.ecs_service import EcsService
from blocks.aws.rollout import Rollout
from blocks.contracts import ImageRegistry, Log, Stack, Turn
from domain.image import PublishedImage, Serving


class EcsStack(Stack, Block):
    """A service on Amazon ECS, with rolling, blue/green or canary deployments of ECS itself."""

    _block_type_name = "Samebits: ECS stack"
    _block_type_slug = "samebits-ecs-stack"
    _description = "A service on Amazon ECS: each deploy is a revision by digest, verified."
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    credentials: AwsCredentials = Field(
        description="Region, and the role that deploys to this stack",
        examples=[
            {
                "region_name": "eu-west-1",
                "assume_role_arn": "arn:aws:iam::123456789012:role/samebits-stage",
            }
        ],
    )
    cluster: str = Field(
        min_length=1, description="Name or ARN of the cluster", examples=["samebits"]
    )
    service: str = Field(min_length=1, description="Name of the service", examples=["stage"])
    container: str = Field(
        default="",
        description="Container of the task definition that runs the image; needed with several",
        examples=["web"],
    )
    least_tasks: int = Field(
        default=1,
        ge=1,
        description="Fewest tasks that the service wants once it is deployed to",
        examples=[2],
    )
    timeout_seconds: int = Field(
        default=1800,
        ge=1,
        description="How long a deployment may take, bake times and approvals included; then it is "
        "stopped, with a rollback",
        examples=[3600],
    )

    def deploy(
        self,
        name: str,  # noqa: ARG002 - the block says which service it is
        image: PublishedImage,
        registry: ImageRegistry,  # noqa: ARG002 - ECS pulls with the task's own role
        turn: Turn,
        log: Log,
    ) -> Serving:
        """Have the service run the image; a deployment that is under way is taken over.

        Raises DeployFailed with the cause and what serves now; StackUnusable where the service is
        not one that can be deployed to.
        """
        turn.begun()  # another's deployment may have to be waited for
        service = self._service()
        return Rollout(service, image, turn, log, self.least_tasks, self.timeout_seconds).run()

    def serving(self, name: str) -> Serving | None:  # noqa: ARG002
        """What the service runs now; None where no task runs."""
        return self._service().serving()

    def _service(self) -> EcsService:
        return EcsService(Aws(self.credentials), self.cluster, self.service, self.container)
