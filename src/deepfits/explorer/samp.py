"""SAMP: hand a selection to a TOPCAT, or a position to an Aladin, that runs on this machine.

Nothing is asked of a hub before somebody presses the button, and no hub on another machine is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deepfits.errors import InputError

_LOCAL = ("127.0.0.1", "localhost", "::1")


@contextmanager
def _client() -> Iterator[Any]:
    """Connect to this machine's hub.

    Raises
    ------
    InputError
        None runs, or it is another machine's.
    """
    from pyvo.samp import SAMPHubError, SAMPIntegratedClient, SAMPProxyError, conf
    from pyvo.samp.lockfile_helpers import get_main_running_hub

    with conf.set_temp("use_internet", False):
        try:
            hub = get_main_running_hub()
            address = hub["samp.hub.xmlrpc.url"].replace("\\", "")
        except (SAMPHubError, KeyError):
            raise InputError(
                "no SAMP hub runs on this machine: start TOPCAT or Aladin, then send again"
            ) from None
        if urlsplit(address).hostname not in _LOCAL:
            raise InputError(f"the SAMP hub is at {address}, which is not on this machine; nothing was sent")
        client = SAMPIntegratedClient(name="deepfits explorer", addr="127.0.0.1", callable=False)
        try:
            client.connect(hub_params=hub)
            yield client
        except (SAMPHubError, SAMPProxyError, OSError) as error:
            raise InputError(f"the SAMP hub did not take it ({error})") from error
        finally:
            if client.is_connected:
                client.disconnect()


def _notify(client: Any, mtype: str, params: dict[str, str]) -> list[str]:
    """Send a message to all who understand it, and return their names."""
    receivers = client.get_subscribed_clients(mtype)
    client.notify_all({"samp.mtype": mtype, "samp.params": params})
    return [client.get_metadata(receiver).get("samp.name", receiver) for receiver in receivers]


def send_table(path: Path, name: str) -> list[str]:
    """Ask those who read VOTables to load one, and return their names.

    Raises
    ------
    InputError
        No hub, or nobody there who reads VOTables.
    """
    with _client() as client:
        names = _notify(
            client,
            "table.load.votable",
            {"url": path.resolve().as_uri(), "name": name, "table-id": path.resolve().as_uri()},
        )
    if not names:
        raise InputError("nobody at the SAMP hub reads tables: start TOPCAT, then send again")
    return names


def send_position(ra: float, dec: float) -> list[str]:
    """Ask those who show the sky to look at a position, in degrees, and return their names.

    Raises
    ------
    InputError
        No hub, or nobody there who shows the sky.
    """
    with _client() as client:
        names = _notify(client, "coord.pointAt.sky", {"ra": f"{ra:.8f}", "dec": f"{dec:.8f}"})
    if not names:
        raise InputError("nobody at the SAMP hub shows the sky: start Aladin, then send again")
    return names
