"""Connections to AWS: which role, when it is assumed, and what is never shown."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.sts.models import STSBackend, sts_backends
from prefect_aws import AwsCredentials
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters

from blocks.aws import connection
from blocks.aws.connection import Aws
from blocks.aws.faults import aws_faults
from domain.errors import AwsRefused, AwsUnavailable
from tests.aws.cloud import Cloud, running_cloud
from tests.conftest import free_port

KEY, SECRET, TOKEN = "AKIAWORKER0000000000", "a-secret-that-nobody-sees", "a-token-of-its-own"
ASSUME = "sts:AssumeRole"
ROLE = "samebits-stage"


@pytest.fixture(scope="module")
def account() -> Iterator[Cloud]:
    """An account with a role; nothing here asks the registry."""
    with running_cloud("127.0.0.1:1") as running:
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        running.client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)
        running.client("ecs").create_cluster(clusterName="it")
        yield running


@pytest.fixture
def cloud(account: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    """The account, asked from a machine that has no credentials of its own."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    once = connection._PATIENT.merge(Config(retries={"total_max_attempts": 1}))
    monkeypatch.setattr(connection, "_PATIENT", once)
    account.faults.clear()
    account.faults.calls.clear()
    yield account
    account.faults.clear()


def block(cloud: Cloud, **fields: Any) -> AwsCredentials:
    """Credentials that assume the role."""
    known: dict[str, Any] = {
        "region_name": cloud.region,
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SECRET,
        "assume_role_arn": f"arn:aws:iam::{cloud.account}:role/{ROLE}",
        "aws_client_parameters": AwsClientParameters(endpoint_url=cloud.url),
    }
    return AwsCredentials(**(known | fields))


def ask(aws: Aws) -> None:
    """One call, as the rooms make them."""
    with aws_faults("asking ECS"):
        aws.ecs().list_clusters()


def test_the_role_is_assumed_with_the_first_call_and_once_for_all_clients(cloud: Cloud) -> None:
    aws = Aws(block(cloud))
    clients = [aws.ecs(), aws.cloudformation(), aws.ecr()]
    assert len(cloud.calls) == 0
    clients[0].list_clusters()
    clients[1].describe_stacks()
    clients[2].describe_repositories()
    aws.ecs().list_clusters()
    assert cloud.calls.actions() == [
        ASSUME,
        "ecs:ListClusters",
        "cloudformation:DescribeStacks",
        "ecr:DescribeRepositories",
        "ecs:ListClusters",
    ]
    assert [call.caller for call in cloud.calls][1:] == [ROLE] * 4


def test_each_step_assumes_the_role_afresh(cloud: Cloud) -> None:
    credentials = block(cloud)
    for _ in range(2):
        ask(Aws(credentials))
    assert cloud.calls.actions() == [ASSUME, "ecs:ListClusters"] * 2


@pytest.mark.parametrize(("minutes", "times"), [(5, 3), (60, 1)])
def test_the_role_is_assumed_again_before_its_credentials_expire(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, minutes: int, times: int
) -> None:
    """The SDK renews what has less than ten minutes left at the latest."""
    assume = STSBackend.assume_role

    def brief(backend: STSBackend, **given: Any) -> Any:
        made = assume(backend, **given)
        made.expiration = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=minutes)
        return made

    monkeypatch.setattr(STSBackend, "assume_role", brief)
    aws = Aws(block(cloud))
    client = aws.ecs()
    for _ in range(3):
        client.list_clusters()
    assert cloud.calls.actions().count(ASSUME) == times
    assert {call.caller for call in cloud.calls if call.action != ASSUME} == {ROLE}


def test_what_the_block_says_of_the_role_is_passed_on(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    assume = STSBackend.assume_role

    def noting(backend: STSBackend, **given: Any) -> Any:
        asked.append(given)
        return assume(backend, **given)

    monkeypatch.setattr(STSBackend, "assume_role", noting)
    monkeypatch.setenv("SAMEBITS_NAME", "n" * 80)
    ask(Aws(block(cloud)))
    own = AssumeRoleParameters(ExternalId="shown", RoleSessionName="mine", DurationSeconds=900)
    ask(Aws(block(cloud, assume_role_kwargs=own)))
    first, second = asked
    assert first["role_session_name"] == f"samebits-{'n' * 80}"[:64]
    assert first["external_id"] is None
    assert (second["role_session_name"], second["external_id"]) == ("mine", "shown")
    assert second["duration"] == 900


def test_the_endpoint_of_the_block_is_that_of_sts_too(cloud: Cloud) -> None:
    """prefect_aws's own call goes to AWS, whatever the block says."""
    ask(Aws(block(cloud)))
    assert cloud.calls.actions()[0] == ASSUME


def test_what_the_block_says_of_clients_wins(cloud: Cloud) -> None:
    ours = Aws(block(cloud)).ecs().meta.config
    assert "samebits" in ours.user_agent_extra
    own = AwsClientParameters(endpoint_url=cloud.url, config={"read_timeout": 7})
    theirs = Aws(block(cloud, aws_client_parameters=own)).ecs().meta.config
    assert theirs.read_timeout == 7
    assert theirs.retries == ours.retries


def test_calls_are_tried_again_a_few_times_and_no_more(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    retries = {"mode": "adaptive", "total_max_attempts": 3}
    monkeypatch.setattr(connection, "_PATIENT", Config(retries=retries))
    cloud.faults.throttle("ecs:ListClusters", 2)
    ask(Aws(block(cloud)))
    cloud.faults.throttle("ecs:ListClusters", 100)
    cloud.calls.clear()
    with pytest.raises(AwsUnavailable, match="Rate exceeded"):
        ask(Aws(block(cloud)))
    assert cloud.calls.actions().count("ecs:ListClusters") == 3


def test_patience_has_a_limit() -> None:
    """What the other tests shorten."""
    assert connection._PATIENT.retries == {"mode": "adaptive", "total_max_attempts": 6}
    assert connection._PATIENT.connect_timeout == 5


def test_logs_may_be_in_another_region(cloud: Cloud) -> None:
    aws = Aws(block(cloud))
    assert aws.logs().meta.region_name == cloud.region
    assert aws.logs("eu-west-1").meta.region_name == "eu-west-1"
    assert aws.ecs().meta.region_name == cloud.region


def test_without_a_role_the_own_keys_are_used(cloud: Cloud) -> None:
    ask(Aws(block(cloud, assume_role_arn=None)))
    assert cloud.calls.actions() == ["ecs:ListClusters"]


def test_no_key_and_no_token_is_shown(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    aws = Aws(block(cloud, aws_session_token=TOKEN))
    ask(aws)
    (assumed,) = sts_backends[cloud.account]["aws"].assumed_roles[-1:]
    cloud.faults.deny("ecs:ListClusters")
    with pytest.raises(AwsRefused) as denied:
        ask(aws)
    cloud.faults.deny(ASSUME)
    with pytest.raises(AwsRefused) as refused:
        ask(Aws(block(cloud, aws_session_token=TOKEN)))
    shown = [repr(aws), str(aws), repr(vars(aws)["_session"]), caplog.text]
    for error in (denied.value, refused.value):
        assert isinstance(error.__cause__, ClientError)
        shown += [str(error), repr(error), str(error.__cause__), repr(error.__cause__)]
    secrets = (SECRET, TOKEN, assumed.secret_access_key, assumed.session_token)
    for secret in secrets:
        assert secret
        assert [text for text in shown if secret in text] == []


def test_a_role_that_cannot_be_assumed_says_what_to_check(cloud: Cloud) -> None:
    absent = f"arn:aws:iam::{cloud.account}:role/absent"
    with pytest.raises(AwsRefused, match="The role for asking ECS could not be assumed") as error:
        ask(Aws(block(cloud, assume_role_arn=absent)))
    assert absent in error.value.why
    assert "trust policy" in error.value.hint
    with pytest.raises(AwsRefused, match=r"assume_role_arn|AWS cannot be asked"):
        ask(Aws(block(cloud, assume_role_arn="x")))


def test_a_block_without_a_region_is_refused(cloud: Cloud) -> None:
    with pytest.raises(AwsRefused, match="name no region") as error:
        Aws(block(cloud, region_name=None))
    assert "region_name" in error.value.hint


@pytest.mark.parametrize("role", [None, f"arn:aws:iam::123456789012:role/{ROLE}"])
def test_a_region_that_is_not_one_is_refused(cloud: Cloud, role: str | None) -> None:
    with pytest.raises(AwsRefused, match="x y"):
        ask(Aws(block(cloud, region_name="x y", assume_role_arn=role)))


def test_a_network_that_is_away_can_be_retried(cloud: Cloud) -> None:
    away = AwsClientParameters(endpoint_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(AwsUnavailable, match="cannot be reached"):
        ask(Aws(block(cloud, aws_client_parameters=away)))


@pytest.mark.parametrize("role", [None, f"arn:aws:iam::123456789012:role/{ROLE}"])
def test_no_credentials_at_all_is_one_clear_message(cloud: Cloud, role: str | None) -> None:
    bare = block(cloud, aws_access_key_id=None, aws_secret_access_key=None, assume_role_arn=role)
    with pytest.raises(AwsRefused, match="No AWS credentials were found for asking ECS") as error:
        ask(Aws(bare))
    assert "IAM role" in error.value.hint


@pytest.mark.parametrize("role", [None, f"arn:aws:iam::123456789012:role/{ROLE}"])
def test_half_of_a_key_is_refused(cloud: Cloud, role: str | None) -> None:
    for half in ("aws_access_key_id", "aws_secret_access_key"):
        with pytest.raises(AwsRefused, match="half of a key") as error:
            Aws(block(cloud, assume_role_arn=role, **{half: None}))
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("role", [None, f"arn:aws:iam::123456789012:role/{ROLE}"])
def test_a_profile_that_is_not_there_is_refused(cloud: Cloud, role: str | None) -> None:
    none = {"aws_access_key_id": None, "aws_secret_access_key": None}
    with pytest.raises(AwsRefused, match=r"profile .* is not on the worker's machine") as error:
        ask(Aws(block(cloud, profile_name="absent", assume_role_arn=role, **none)))
    assert "absent" in error.value.why


def test_a_profile_of_the_machine_assumes_the_role(cloud: Cloud, tmp_path: Path) -> None:
    keys = f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(keys)
    none = {"aws_access_key_id": None, "aws_secret_access_key": None}
    ask(Aws(block(cloud, profile_name="work", **none)))
    assert cloud.calls.actions() == [ASSUME, "ecs:ListClusters"]
