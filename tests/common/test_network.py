"""Whether there is a network is known within seconds."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import src.common.network
from src.common.files import InputError
from src.common.network import require_network


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_host_that_answers_is_a_network(status, monkeypatch):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")  # which is asked for the mirror
        monkeypatch.delenv("no_proxy", raising=False)
        require_network("the weights")
        server.shutdown()
    assert asked == ["http://mirror.invalid"]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://nowhere.invalid", "no address"])
def test_none_is_told_in_one_line(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=f"^no network to download the weights: {endpoint}: ."):
        require_network("the weights")


def test_silence_is_no_network(monkeypatch):
    monkeypatch.setattr(src.common.network, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")
        started = time.monotonic()
        with pytest.raises(InputError, match=r"no answer in 0\.2 s|timed out"):
            require_network("the weights")
        assert time.monotonic() - started < 2
