"""SAMP: a selection goes to those who read tables, a position to those who show the sky, on this machine."""

import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from astropy.table import Table
from pyvo.samp import SAMPHubServer, SAMPIntegratedClient, conf
from starlette.testclient import TestClient

import deepfits
from deepfits.errors import InputError
from deepfits.explorer.server import make_app
from tests.helpers.drawn_run import NUM

SEND = {"x-deepfits": "1"}


@pytest.fixture
def client(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where a hub says that it runs
    monkeypatch.delenv("SAMP_HUB", raising=False)
    app = make_app(*loaded, title="a run", is_samp=True)
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.fixture
def topcat(client):
    """Run a hub, and a program that reads tables and shows the sky; give what it was sent."""
    with conf.set_temp("use_internet", False):
        hub = SAMPHubServer(addr="127.0.0.1", web_profile=False)
        hub.start()
        program = SAMPIntegratedClient(name="TOPCAT", addr="127.0.0.1")
        program.connect(hub=hub)
        sent = []

        def receive(private_key, sender_id, mtype, params, extra):
            sent.append(params)

        for mtype in ("table.load.votable", "coord.pointAt.sky"):
            program.bind_receive_notification(mtype, receive)
        yield sent
        program.disconnect()
        hub.stop()


def wait_for(sent):
    for _ in range(200):
        if sent:
            return sent.pop()
        time.sleep(0.02)
    raise AssertionError("nothing was sent")


def test_a_selection_and_a_position_arrive(client, topcat):
    answer = client.post("/api/samp", json={"what": "table", "rows": [5, 2]}, headers=SEND)
    assert answer.json() == {"sent_to": ["TOPCAT"]}
    table = Table.read(urlsplit(wait_for(topcat)["url"]).path, format="votable")
    assert table["object_id"].tolist() == [2**60 + 5, 2**60 + 2]
    np.testing.assert_allclose(table["z_spec"], [0.1, 0.04])
    client.post("/api/samp", json={"what": "position", "rows": [5]}, headers=SEND)
    place = wait_for(topcat)
    assert (float(place["ra"]), float(place["dec"])) == (150.05, 2.0)
    for rows in ([], [NUM], ["a"]):
        assert client.post("/api/samp", json={"rows": rows}, headers=SEND).status_code == 400


def test_without_a_hub_or_without_leave_nothing_is_sent(client, loaded):
    refused = client.post("/api/samp", json={"rows": [1]}, headers=SEND)
    assert "start TOPCAT or Aladin" in refused.json()["error"]
    plain = TestClient(make_app(*loaded, title="a run"), base_url="http://127.0.0.1")
    assert not plain.get("/api/about").json()["samp"]
    assert "SAMP is off" in plain.post("/api/samp", json={"rows": [1]}, headers=SEND).json()["error"]


def test_a_hub_elsewhere_is_not_used(client, monkeypatch):
    elsewhere = {"samp.hub.xmlrpc.url": "http://192.0.2.1:9/"}
    monkeypatch.setattr("pyvo.samp.lockfile_helpers.get_main_running_hub", lambda: elsewhere)
    refused = client.post("/api/samp", json={"rows": [1]}, headers=SEND)
    assert "192.0.2.1:9/, which is not on this machine" in refused.json()["error"]


def test_samp_is_not_for_others(run):
    with pytest.raises(InputError, match="SAMP works on this machine only"):
        deepfits.explore(run, host="0.0.0.0", samp=True, open_browser=False)
