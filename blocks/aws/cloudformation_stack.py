"""A stack on AWS CloudFormation: a template with a parameter that is the image."""

from typing import ClassVar

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from pydantic import ConfigDict, Field

from blocks.aws.cloudformation import CloudFormation
from blocks.aws.connection import Aws
from blocks.aws.ecs_service import EcsService
from blocks.aws.stack_update import StackUpdate
from blocks.aws.verification import serves_now, verified
from blocks.contracts import ImageRegistry, Log, Stack, Turn
from domain.errors import DeployFailed, SamebitsError
from domain.image import PublishedImage, Serving


class CloudFormationStack(Stack, Block):
    """A stack of CloudFormation, whose template takes the image as a parameter."""

    _block_type_name = "Samebits: CloudFormation stack"
    _block_type_slug = "samebits-cloudformation-stack"
    _description = "A CloudFormation stack: each deploy is a change set with the image by digest."
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
    stack: str = Field(
        min_length=1, description="Name of the CloudFormation stack", examples=["samebits"]
    )
    parameter: str = Field(
        pattern=r"^[A-Za-z0-9]+$",
        description="Parameter of the template that takes the image",
        examples=["StageImage"],
    )
    service_output: str = Field(
        default="",
        description="Output that is the ARN of the ECS service; without it nothing is verified",
        examples=["StageService"],
    )
    container: str = Field(
        default="",
        description="Container of the task definition that runs the image; needed with several",
        examples=["web"],
    )
    timeout_seconds: int = Field(
        default=1800,
        ge=1,
        description="How long an update may take; then it is stopped, with a rollback",
        examples=[3600],
    )

    def deploy(
        self,
        name: str,  # noqa: ARG002 - the block says which stack it is
        image: PublishedImage,
        registry: ImageRegistry,  # noqa: ARG002 - AWS pulls with the task's own role
        turn: Turn,
        log: Log,
    ) -> Serving:
        """Update the stack; an update that is under way is waited for.

        Raises DeployFailed with the first event that failed and what serves now; StackUnusable
        where the stack is not one that can be updated.
        """
        turn.begun()  # another's update may have to be waited for
        aws = Aws(self.credentials)
        stack = CloudFormation(aws.cloudformation(), self.stack)
        update = StackUpdate(stack, self.parameter, image, turn, log, self.timeout_seconds)
        try:
            update.wait_until_idle()
            self._check(aws, stack)
            update.run()
        except DeployFailed as error:
            raise DeployFailed(
                error.what,
                why=error.why,
                hint=" ".join(filter(None, (error.hint, self._serves(aws, stack)))),
                log=error.log,
            ) from error
        if not self.service_output:
            log("The block names no service_output: which digest runs was not verified")
            return Serving(digest=image.digest, sha=image.commit.sha)
        service = self._service(aws, stack)
        return verified(service, image, timeout_seconds=self.timeout_seconds)

    def serving(self, name: str) -> Serving | None:  # noqa: ARG002
        """What the stack's service runs; without one, what its parameter says."""
        aws = Aws(self.credentials)
        stack = CloudFormation(aws.cloudformation(), self.stack)
        if self.service_output:
            return self._service(aws, stack).serving()
        return stack.image_in(self.parameter)

    def _check(self, aws: Aws, stack: CloudFormation) -> None:
        """Raise StackUnusable where it is unclear what is to be verified after the update."""
        if self.service_output:
            service = self._service(aws, stack)
            service.container(service.definition(service.describe()["taskDefinition"]))

    def _serves(self, aws: Aws, stack: CloudFormation) -> str:
        try:
            if self.service_output:
                return serves_now(self._service(aws, stack))
            return f"{self.parameter} is {stack.parameters().get(self.parameter) or 'empty'} now."
        except SamebitsError as error:  # it must not hide why the deploy failed
            return f"What serves now could not be read: {error.what}"

    def _service(self, aws: Aws, stack: CloudFormation) -> EcsService:
        cluster, name = stack.service(self.service_output)
        return EcsService(aws, cluster, name, self.container)
