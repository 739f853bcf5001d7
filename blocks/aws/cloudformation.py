"""One stack of AWS CloudFormation: what is asked of it.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Operations.html
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from blocks.aws.faults import aws_faults, code_of
from domain.errors import DeployFailed, StackUnusable
from domain.image import Serving

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

Event = Mapping[str, Any]
_NO_CHANGES = re.compile(r"didn't contain changes|No updates are to be performed", re.IGNORECASE)
_SERVICE_ARN = re.compile(r"arn:[\w-]+:ecs:[\w-]+:\d+:service/([\w-]+)/([\w-]+)\Z")


class CloudFormation:
    """A stack of CloudFormation, by its name."""

    def __init__(self, client: "CloudFormationClient", name: str) -> None:
        self._client, self.name = client, name

    def describe(self) -> Mapping[str, Any]:
        """The stack as it is now; raises StackUnusable where it is not there."""
        with self._calls():
            return self._client.describe_stacks(StackName=self.name)["Stacks"][0]

    @property
    def status(self) -> str:
        """Its status, e.g. UPDATE_COMPLETE."""
        return str(self.describe()["StackStatus"])

    def parameters(self) -> dict[str, str]:
        """Its parameters."""
        return {
            p["ParameterKey"]: p.get("ParameterValue", "")
            for p in self.describe().get("Parameters", [])
        }

    def image_in(self, parameter: str) -> Serving | None:
        """The digest that a parameter names; None where it names none."""
        digest = self.parameters().get(parameter, "").partition("@")[2]
        return Serving(digest=digest) if digest else None

    def service(self, output: str) -> tuple[str, str]:
        """Cluster and name of the ECS service whose ARN is an output of the stack."""
        outputs = {o["OutputKey"]: o["OutputValue"] for o in self.describe().get("Outputs", [])}
        found = _SERVICE_ARN.match(outputs.get(output, ""))
        if not found:
            raise StackUnusable(
                f"The stack {self.name} has no output {output!r} that is the ARN of a service.",
                why=f"Its outputs: {', '.join(sorted(outputs)) or 'none'}.",
                hint="Output the Ref of the AWS::ECS::Service, or correct service_output.",
            )
        return found[1], found[2]

    def propose(self, parameter: str, value: str) -> str:
        """Begin a change set in which one parameter has another value; returns its ARN."""
        stack = self.describe()
        given: list[Any] = [
            {"ParameterKey": key, "ParameterValue": value}
            if key == parameter
            else {"ParameterKey": key, "UsePreviousValue": True}
            for key in self.parameters()
        ]
        # By the token, a call that is made again because its answer was lost is not another one.
        name = f"samebits-{uuid.uuid4().hex}"
        with self._calls():
            made = self._client.create_change_set(
                StackName=self.name,
                ChangeSetName=name,
                ClientToken=name,
                ChangeSetType="UPDATE",
                UsePreviousTemplate=True,
                Parameters=given,
                Capabilities=stack.get("Capabilities", []),
            )
        return made["Id"]

    def proposed(self, change_set: str) -> bool | None:
        """Whether a change set is ready; None where it has no changes, and was removed.

        Raises DeployFailed where it could not be made.
        """
        with self._calls():
            found = self._client.describe_change_set(ChangeSetName=change_set, StackName=self.name)
            status, reason = found["Status"], found.get("StatusReason", "")
            if status != "FAILED":
                return bool(status == "CREATE_COMPLETE")
        self.discard(change_set)
        if _NO_CHANGES.search(reason):
            return None
        raise DeployFailed(
            f"CloudFormation could not prepare the update of {self.name}.",
            why=reason,
            hint="Nothing was changed.",
        )

    def discard(self, change_set: str) -> None:
        """Remove a change set that is not executed."""
        with self._calls():
            self._client.delete_change_set(ChangeSetName=change_set, StackName=self.name)

    def execute(self, change_set: str) -> None:
        """Begin the update."""
        with self._calls():
            self._client.execute_change_set(
                ChangeSetName=change_set,
                StackName=self.name,
                ClientRequestToken=f"samebits-{uuid.uuid4().hex}",
                DisableRollback=False,
            )

    def cancel(self) -> None:
        """Stop an update; CloudFormation rolls it back."""
        with self._calls():
            self._client.cancel_update_stack(StackName=self.name)

    def events(self, known: set[str]) -> list[Event]:
        """The events that are not `known` yet, the oldest first; they are made known.

        With nothing known it is the latest page of them.
        """
        fresh: list[Event] = []
        first = not known
        with self._calls():
            pages = self._client.get_paginator("describe_stack_events")
            for page in pages.paginate(StackName=self.name):
                news = [e for e in page["StackEvents"] if e["EventId"] not in known]
                fresh += news
                if first or len(news) < len(page["StackEvents"]):
                    break
        known.update(e["EventId"] for e in fresh)
        return fresh[::-1]

    @contextmanager
    def _calls(self) -> Iterator[None]:
        with aws_faults(f"asking CloudFormation about {self.name}"):
            try:
                yield
            except ClientError as error:
                if code_of(error) == "ValidationError" and "does not exist" in str(error):
                    raise StackUnusable(
                        f"CloudFormation has no stack {self.name!r} in this account and region.",
                        hint="Correct stack, or the region of the credentials, in the block.",
                    ) from error
                raise
