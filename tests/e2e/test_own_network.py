"""Tests that kill their engine, in a network of their own."""

import subprocess

import pytest

from tests import own_network

pytestmark = [pytest.mark.system, pytest.mark.timeout(1000)]


def test_what_an_engine_that_is_killed_does_to_a_run() -> None:
    done = subprocess.run(
        own_network.command(["-p", "no:cacheprovider"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=950,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0
