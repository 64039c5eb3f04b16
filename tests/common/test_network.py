"""Whether there is a network is known within seconds."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import src.common.network
from src.common.files import InputError
from src.common.network import require_network

NOWHERE = "http://127.0.0.1:9"  # the port that discards


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(403)

        def log_message(self, *_):
            pass

    asked: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Refuses) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


def test_any_answer_is_a_network(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    require_network("a model")
    assert len(server[1]) == 1


def test_it_asks_by_the_proxy_of_the_environment(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server[0])
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    require_network("a model")
    assert server[1] == ["http://hub.invalid"]


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "https_proxy"])
def test_no_answer_is_an_error_within_seconds(name, monkeypatch):
    monkeypatch.setenv(name, NOWHERE)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"a model is to be downloaded, but http.* cannot be reached"):
        require_network("a model")
    assert time.monotonic() - started < 5


def test_nothing_is_asked_where_that_is_forbidden(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        require_network("a model")
    assert not server[1]


@pytest.mark.parametrize("endpoint", ["https://nowhere.invalid", "no address"])
def test_an_address_that_is_none_is_no_network(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(InputError, match=rf"a model is to be downloaded, but {endpoint} cannot be reached \(.+\)$"):
        require_network("a model")


def test_silence_is_no_network(monkeypatch):
    monkeypatch.setattr(src.common.network, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(InputError, match=r"no answer in 0\.2 s|timed out"):
            require_network("a model")
        assert time.monotonic() - started < 2
