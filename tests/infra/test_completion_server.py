"""Where a server can stand."""

from __future__ import annotations

import socket

import pytest

from infra.completion_server import address_of, bound_socket


def test_a_free_port_is_found_and_told() -> None:
    with bound_socket("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound) == f"http://127.0.0.1:{port}"
        bound.listen()
        with pytest.raises(ValueError, match=f"127.0.0.1, port {port}, can not be served: Address already in use"):
            bound_socket("127.0.0.1", port)


def test_a_port_is_free_again_once_its_server_has_ended() -> None:
    with bound_socket("127.0.0.1", 0) as bound:
        bound.listen()
        address = bound.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = bound.accept()
            accepted.close()  # first, so that it is the server's side that lingers
            assert client.recv(1) == b""
    with bound_socket(*address) as again:
        assert again.getsockname() == address


def test_an_address_of_the_sixth_version_stands_in_brackets() -> None:
    try:
        bound = bound_socket("::1", 0)
    except (ValueError, OSError):
        pytest.skip("this machine has no IPv6")
    with bound:
        assert address_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"
