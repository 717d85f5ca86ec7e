"""SAMP: send a selection to TOPCAT, or a position to Aladin, on this machine.

A hub is contacted only when the user presses the button, and never on another machine.
"""

from pathlib import Path
from urllib.parse import urlsplit

from deepfits.errors import InputError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")  # names of the local machine


def _send(mtype: str, params: dict[str, str], nobody: str) -> list[str]:
    """Send a message to all clients of the hub that support it, and return their names.

    It is an error if there is no hub, if it is on another machine, or, with `nobody`, if there is no client.
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
        if urlsplit(address).hostname not in LOCAL_HOSTS:
            raise InputError(f"the SAMP hub is at {address}, which is not on this machine; nothing was sent")
        client = SAMPIntegratedClient(name="deepfits explorer", addr="127.0.0.1", callable=False)
        try:
            client.connect(hub_params=hub)
            receivers = client.get_subscribed_clients(mtype)
            client.notify_all({"samp.mtype": mtype, "samp.params": params})
            names = [client.get_metadata(receiver).get("samp.name", receiver) for receiver in receivers]
        except (SAMPHubError, SAMPProxyError, OSError) as error:
            raise InputError(f"the SAMP hub rejected the message ({error})") from error
        finally:
            if client.is_connected:
                client.disconnect()
    if not names:
        raise InputError(f"no client of the SAMP hub {nobody}, then send again")
    return names


def send_table(path: Path, name: str) -> list[str]:
    """Ask all clients that read VOTables to load one, and return their names; see `_send`."""
    address = path.resolve().as_uri()
    params = {"url": address, "name": name, "table-id": address}
    return _send("table.load.votable", params, "reads tables: start TOPCAT")


def send_position(ra: float, dec: float) -> list[str]:
    """Ask all clients that show the sky to point at a position, degrees; return their names, see `_send`."""
    params = {"ra": f"{ra:.8f}", "dec": f"{dec:.8f}"}
    return _send("coord.pointAt.sky", params, "shows the sky: start Aladin")
