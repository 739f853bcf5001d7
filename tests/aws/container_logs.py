"""What the `awslogs` driver does: the log of a container goes to CloudWatch; here, when it ends.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using_awslogs.html
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from moto.logs.exceptions import ResourceAlreadyExistsException, ResourceNotFoundException
from moto.logs.models import logs_backends

from tests.aws.faults import ACCOUNT


def keep_log(definition: Mapping[str, Any], task_id: str, lines: Sequence[str]) -> None:
    """Write the lines of a container, where its definition names a log group that is there."""
    logs = definition.get("logConfiguration", {})
    options = logs.get("options", {})
    if logs.get("logDriver") != "awslogs" or not lines:
        return
    group = options["awslogs-group"]
    stream = f"{options['awslogs-stream-prefix']}/{definition['name']}/{task_id}"
    backend = logs_backends[ACCOUNT][options["awslogs-region"]]
    now = int(time.time() * 1000)
    with suppress(ResourceNotFoundException):
        with suppress(ResourceAlreadyExistsException):
            backend.create_log_stream(group, stream)
        events = [{"timestamp": now, "message": line} for line in lines]
        backend.put_log_events(group, stream, events)
