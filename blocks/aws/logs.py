"""The log of a container, where Amazon CloudWatch keeps it.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using_awslogs.html
"""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from blocks.aws.connection import Aws
from blocks.aws.faults import aws_faults, code_of
from domain.errors import SamebitsError
from domain.names import one_line

_MOST_LINES = 12


def last_lines(aws: Aws, definition: Mapping[str, Any], task_arn: str) -> list[str]:
    """The last lines that a container of a task has written; none where the log is elsewhere.

    `definition` is the container's own. That the log cannot be read hides no failed deploy: a line
    says so in its place.
    """
    logs = definition.get("logConfiguration", {})
    options = logs.get("options", {})
    group, prefix = options.get("awslogs-group"), options.get("awslogs-stream-prefix")
    if logs.get("logDriver") != "awslogs" or not group or not prefix:
        return []
    stream = f"{prefix}/{definition['name']}/{task_arn.rpartition('/')[2]}"
    try:
        with aws_faults(f"reading the log {group}"):
            try:
                found = aws.logs(options.get("awslogs-region")).get_log_events(
                    logGroupName=group, logStreamName=stream, limit=_MOST_LINES
                )
            except ClientError as error:
                if code_of(error) == "ResourceNotFoundException":
                    return []
                raise
    except SamebitsError as error:
        return [f"(its log {group} cannot be read: {one_line(error.why or error.what, 300)})"]
    return [one_line(event.get("message", ""), 500) for event in found["events"]]
