"""The tests themselves reach no network; see `no_network` in conftest.py."""

import socket
import urllib.request

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org"])
def test_no_other_machine_is_reached(host: str) -> None:
    for attempt in (
        lambda: socket.create_connection((host, 80), timeout=1),
        lambda: urllib.request.urlopen(f"http://{host}/", timeout=1),
    ):
        with pytest.raises(pytest.fail.Exception, match=f"asked the network for {host}"):
            attempt()


def test_this_machine_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
