"""Nonsense in the configuration is a clear message, with the place."""

from pathlib import Path

import pytest

from deployments.provisioning import read_mapping
from deployments.settings import read_settings
from domain.errors import BadInput

GOOD = "{commit: {repository: hello, branch: master}, stack: stage}"


def written(folder: Path, parameters: str) -> Path:
    file = folder / "prefect.yaml"
    file.write_text(f"deployments:\n  - name: hello-master\n    parameters: {parameters}\n")
    return file


def test_a_sound_file_says_where_each_branch_leads(tmp_path: Path) -> None:
    (target,) = read_mapping(written(tmp_path, GOOD))
    assert (target.repository, target.branch, target.stack) == ("hello", "master", "stage")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{commit: {repository: Hello, branch: master}}", "repository: .*cannot be used as a name"),
        ("{commit: {repository: hello, branch: --x}}", "branch: .*not a branch name"),
        ("{commit: {repository: hello}}", "branch: Field required"),
        ("{commit: {repository: h, branch: m}, settings: {test: {comand: [x]}}}", "test.comand"),
        ("{commit: {repository: h, branch: m}, stack: [a]}", "stack: "),
    ],
)
def test_a_wrong_deployment_is_named_with_the_field(
    tmp_path: Path, parameters: str, message: str
) -> None:
    with pytest.raises(BadInput, match=f"hello-master is wrong.*{message}"):
        read_mapping(written(tmp_path, parameters))


@pytest.mark.parametrize("text", ["", "[", "deployments", "deployments: 1", "name: x"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"prefect\.yaml"):
        read_mapping(file)


def test_a_wrong_setting_of_the_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEBITS_PREFECT_PORT", "abc")
    monkeypatch.setenv("SAMEBITS_RUNS_AT_ONCE", "0")
    with pytest.raises(BadInput, match=r"SAMEBITS_PREFECT_PORT: .*SAMEBITS_RUNS_AT_ONCE: "):
        read_settings()
