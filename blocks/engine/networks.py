"""Networks: of the tests, of each stack, of the embedded registry."""

import hashlib
import http
import time
from collections.abc import Mapping
from typing import Any

import docker.errors
from docker.types import IPAMConfig, IPAMPool

from blocks.engine.connection import Connection
from blocks.engine.faults import engine_faults

_TAKEN = (http.HTTPStatus.CONFLICT, http.HTTPStatus.FORBIDDEN)
_TAKEN_SECONDS, _PAUSE_SECONDS = 10.0, 0.05
_MOST_BRIDGE = 15
"""Length of an interface's name, IFNAMSIZ: https://man7.org/linux/man-pages/man7/netdevice.7.html"""


class Networks(Connection):
    """Making and removing bridge networks."""

    def network(
        self, name: str, labels: Mapping[str, str], *, fixed: bool = False, talk: bool = True
    ) -> None:
        """Make sure that a bridge network of this name exists.

        `fixed`: addresses can be given by hand. Without `talk` its containers reach the outside,
        but not each other.
        """
        options = {
            "com.docker.network.bridge.enable_icc": str(talk).lower(),
            "com.docker.network.bridge.name": _bridge(name),
        }
        common: dict[str, Any] = {"labels": dict(labels), "options": options}
        with engine_faults(f"creating the network {name}"):
            made = self._made_now(name, common)
            if made and fixed:
                # Fixed addresses need a subnet that was asked for; the engine picks a free one.
                made.reload()
                pool = IPAMPool(subnet=made.attrs["IPAM"]["Config"][0]["Subnet"])
                made.remove()
                self._docker.networks.create(name, ipam=IPAMConfig(pool_configs=[pool]), **common)

    def _made_now(self, name: str, common: Mapping[str, Any]) -> Any | None:
        """The network, if it was not there; None if it was."""
        deadline = time.monotonic() + _TAKEN_SECONDS
        while not self._docker.networks.list(names=[f"^{name}$"]):
            try:
                return self._docker.networks.create(name, check_duplicate=True, **common)
            except docker.errors.APIError as error:
                # Another run was quicker; an engine lists what it makes only when it has made it.
                if error.status_code not in _TAKEN or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
        return None

    def subnet(self, network: str) -> str:
        """The subnet of a network, e.g. 172.20.0.0/16."""
        with engine_faults(f"inspecting the network {network}"):
            return str(self._docker.networks.get(network).attrs["IPAM"]["Config"][0]["Subnet"])

    def remove_network(self, name: str) -> None:
        """Remove a network; one that is not there is fine."""
        with engine_faults(f"removing the network {name}"):
            for network in self._docker.networks.list(names=[f"^{name}$"]):
                network.remove()


def _bridge(network: str) -> str:
    """The name of a network's interface, which only one can have.

    Of a network's own name an engine before 25 makes as many as are asked for at once; then it
    names none of them ("is ambiguous"), and no container starts.
    Source: CheckDuplicate in https://docs.docker.com/reference/api/engine/version/v1.41/
    """
    if len(network) <= _MOST_BRIDGE:
        return network
    return f"sb-{hashlib.sha256(network.encode()).hexdigest()[: _MOST_BRIDGE - 3]}"
