"""Connections to AWS with the role of a credentials block, made anew for each step."""

from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
    create_assume_role_refresher,
)
from prefect_aws import AwsCredentials

from blocks.aws.faults import aws_faults
from blocks.home import system_name
from domain.errors import AwsRefused

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_logs import CloudWatchLogsClient

# Bounded: what is refused as often as that stops the step, which its own retries or a person rerun.
# Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
_PATIENT = Config(
    retries={"mode": "adaptive", "total_max_attempts": 6},
    connect_timeout=5,
    read_timeout=60,
    user_agent_extra="samebits",
)
_METADATA_ATTEMPTS = 4
_CONNECTING = "connecting as the AWS Credentials block says"


class Aws:
    """AWS as the role of a credentials block sees it.

    The role is assumed on the first call, and again before its credentials expire, so a long
    deploy does not end with them: prefect_aws's own clients are cached and never renewed.
    """

    def __init__(self, credentials: AwsCredentials) -> None:
        self._credentials = credentials
        if not credentials.region_name:
            raise AwsRefused(
                "The AWS credentials name no region.",
                hint="Fill in region_name in the AWS Credentials block, e.g. eu-west-1.",
            )
        with aws_faults(_CONNECTING):
            self._session = self._assumed() if credentials.assume_role_arn else self._base()

    def ecr(self) -> "ECRClient":
        """Amazon ECR."""
        client: ECRClient = self._client("ecr")
        return client

    def ecs(self) -> "ECSClient":
        """Amazon ECS."""
        client: ECSClient = self._client("ecs")
        return client

    def cloudformation(self) -> "CloudFormationClient":
        """AWS CloudFormation."""
        client: CloudFormationClient = self._client("cloudformation")
        return client

    def logs(self, region: str | None = None) -> "CloudWatchLogsClient":
        """Amazon CloudWatch Logs, of another region where one is given."""
        client: CloudWatchLogsClient = self._client("logs", region=region)
        return client

    def _client(self, service: str, *, region: str | None = None) -> Any:
        elsewhere = {"region_name": region} if region else {}
        with aws_faults(_CONNECTING):
            return self._session.client(service, **self._parameters() | elsewhere)  # type: ignore[call-overload]

    def _parameters(self) -> dict[str, Any]:
        """What each client is made with: the block's own settings win over ours."""
        own = self._credentials.aws_client_parameters.get_params_override()
        return own | {"config": _PATIENT.merge(own.get("config") or Config())}

    def _base(self) -> boto3.Session:
        """A session with the block's own keys or profile, else as the machine has it."""
        known = self._credentials
        secret = known.aws_secret_access_key
        if bool(known.aws_access_key_id) != bool(secret):
            raise AwsRefused(
                "The AWS Credentials block holds half of a key.",
                hint="Fill in aws_access_key_id and aws_secret_access_key; better, leave both "
                "empty and give the worker's machine an IAM role.",
            )
        session = _session()
        # A machine's own role comes from its metadata service, which is away now and then.
        session.set_config_variable("metadata_service_num_attempts", _METADATA_ATTEMPTS)
        return boto3.Session(
            botocore_session=session,
            aws_access_key_id=known.aws_access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            aws_session_token=known.aws_session_token,
            profile_name=known.profile_name,
            region_name=known.region_name,
        )

    def _assumed(self) -> boto3.Session:
        session = _session()
        resolver = CredentialResolver([_AssumedRole(self._refresher())])
        session.register_component("credential_provider", resolver)
        return boto3.Session(botocore_session=session, region_name=self._credentials.region_name)

    def _refresher(self) -> Any:
        own = self._credentials.assume_role_kwargs.get_params_override()
        role = {
            "RoleArn": self._credentials.assume_role_arn,
            "RoleSessionName": f"samebits-{system_name()}"[:64],
        }
        sts = self._base().client("sts", **self._parameters())
        return create_assume_role_refresher(sts, role | own)


def _session() -> botocore.session.Session:
    """A session of its own, which shares with the others only what the SDK ships: that is large."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    return session


@cache
def _loader() -> Any:
    data_path = botocore.session.get_session().get_config_variable("data_path")
    return botocore.loaders.create_loader(data_path)


class _AssumedRole(CredentialProvider):
    """Credentials of a role, asked for when they are first needed, and before they expire."""

    METHOD = CANONICAL_NAME = "samebits-assume-role"

    def __init__(self, refresh: Any) -> None:
        super().__init__()
        self._refresh = refresh

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(refresh_using=self._refresh, method=self.METHOD)
