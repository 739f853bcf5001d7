"""A stand-in for what moto lacks of CloudFormation: updates of stacks that take their time.

moto ends an update in the call that begins it, whatever the services do, and forgets the new
parameters and the template's defaults. It refuses what changes nothing one call too early, and has
no CancelUpdateStack.

```python
with Updates(agent).in_place() as updates:
    client.execute_change_set(ChangeSetName=change_set)  # and describe_stacks, until it is done
```

Sources: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets-execute.html
https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CancelUpdateStack.html
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Event, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import EmptyResult
from moto.ecs.models import Service

from tests.aws.agent import EcsAgent

BREAKER = "ECS Deployment Circuit Breaker was triggered"
_BEGUN, _BACK = "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS"
_FAILED = ("STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")


class Updates:
    """Updates of stacks that wait for their services, and go back where one fails.

    They go on whenever somebody looks at a stack or its events. A stack has one service at most
    that can fail, with the logical ID `Service`.
    """

    def __init__(self, agent: EcsAgent) -> None:
        self.wait_for_services = True
        """False for moto's own way: an update is complete at once"""
        self.paused = False
        """Whether updates stay in progress"""
        self._agent, self._lock = agent, threading.RLock()
        self._before: dict[str, dict[str, str]] = {}
        """The parameters that an update goes back to, by the stack's ID"""

    @contextmanager
    def in_place(self) -> Iterator["Updates"]:
        """Have moto's CloudFormation answer so, for as long as the block lasts."""
        backend = {
            "describe_stacks": self._after_a_look(CloudFormationBackend.describe_stacks),
            "describe_stack_events": self._after_a_look(
                CloudFormationBackend.describe_stack_events
            ),
            "execute_change_set": _method(self._execute),
        }
        responses = {
            "cancel_update_stack": _method(self._cancel),
            "_validate_different_update": lambda *_: None,
        }
        with (
            patch.multiple(CloudFormationBackend, **backend),
            patch.multiple(CloudFormationResponse, create=True, **responses),
            patch.object(Stack, "has_parameters", _has_parameters),
        ):
            yield self

    def _after_a_look(self, look: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def seen(backend: CloudFormationBackend, name: str) -> Any:
            self._go_on(backend)
            return look(backend, name)

        return seen

    # What the API asks for

    def _execute(self, backend: CloudFormationBackend, change_set_name: str, **_: Any) -> None:
        with self._lock:
            change_set = backend.describe_change_set(change_set_name)
            stack = backend.stacks[change_set.stack_id]
            self._before[stack.stack_id] = _texts(stack.stack_parameters)
            enter(stack, _BEGUN, "User Initiated")
            stack.resource_map.update(stack.template_dict, _texts(change_set.parameters))

    def _cancel(self, response: CloudFormationResponse) -> EmptyResult:
        stack = response.cloudformation_backend.get_stack(response._get_param("StackName"))
        with self._lock:
            if stack.status != _BEGUN:
                why = "CancelUpdateStack cannot be called from current stack status"
                raise ValidationError(message=why)
            self._go_back(stack, "User Initiated")
        return EmptyResult()

    # What goes on by itself

    def _go_on(self, backend: CloudFormationBackend) -> None:
        """See what the services of stacks do that are in progress."""
        with self._lock, self._agent.lock:
            for stack in backend.stacks.values():
                if stack.stack_id in self._before and not self.paused:
                    self._look(stack)

    def _look(self, stack: Stack) -> None:
        latest = {
            service.arn: self._agent.services[service.arn].deployments[0].status
            for service in (_services(stack) if self.wait_for_services else [])
        }
        failed = next((arn for arn, status in latest.items() if status in _FAILED), None)
        done = all(status == "SUCCESSFUL" for status in latest.values())
        if stack.status == _BEGUN and failed:
            _fail(stack, ("Service", failed, "AWS::ECS::Service"), BREAKER)
            _fail(stack, ("Other", "", "AWS::X::Y"), "Resource update cancelled")
            self._go_back(stack, "The following resource(s) failed to update: [Service].")
        elif stack.status == _BEGUN and done:
            enter(stack, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        elif stack.status == _BACK and done:
            enter(stack, "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS")
        elif (ended := stack.status.removesuffix("_CLEANUP_IN_PROGRESS")) != stack.status:
            enter(stack, ended)

    def _go_back(self, stack: Stack, reason: str) -> None:
        enter(stack, _BACK, reason)
        for service in _services(stack):
            self._agent.release(service.name)  # what was held is the new version
        stack.resource_map.update(stack.template_dict, self._before[stack.stack_id])


def _method(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A method for a class: a bound one would not be given the object that it is called on."""

    def called(*words: Any, **named: Any) -> Any:
        return handler(*words, **named)

    return called


def _services(stack: Stack) -> list[Service]:
    found = stack.resource_map._parsed_resources.values()
    return [one for one in found if isinstance(one, Service)]


def _texts(parameters: dict[str, Any]) -> dict[str, str]:
    """Parameters as they are given; moto keeps some as lists and numbers."""
    return {
        name: ",".join(value) if isinstance(value, list) else str(value)
        for name, value in parameters.items()
    }


def _has_parameters(stack: Stack, others: dict[str, Any]) -> bool:
    return _texts(stack.stack_parameters) == _texts(others)


def enter(stack: Stack, status: str, reason: str | None = None) -> None:
    """A stack is in another status, and its events say so."""
    stack.status = status
    stack._add_stack_event(status, resource_status_reason=reason)


def _fail(stack: Stack, resource: tuple[str, str, str], reason: str) -> None:
    """Let a resource fail: its logical ID, physical ID and type."""
    event = Event(stack.stack_id, stack.name, *resource, "UPDATE_FAILED", reason, None)
    stack.events.append(event)
