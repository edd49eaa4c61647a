"""Puts nginx in front of a server, with kept-alive connections to it: no request of 10,000 is lost, and
no event is held back. Puts it in front of two, with the configuration in examples/nginx, and kills and
stops them under load: no request is lost that was not already being answered.

usage: python proxy.py PATH_TO_MICROGPT
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import program

REQUESTS = 10_000
CLIENTS = 8

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {servers}
}}
"""

ONE_SERVER = """
    upstream microgpt {{ server {address}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://microgpt;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
"""

BALANCER = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "nginx", "microgpt.conf")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_server(address, port):
    return ONE_SERVER.format(address=address, port=port)


def two_servers(addresses, port):
    """The balancer's configuration for these addresses."""
    with open(BALANCER) as file:
        text = file.read()
    for old, new in [
        ("10.0.0.1:8080", addresses[0]), ("10.0.0.2:8080", addresses[1]), ("listen 80;", f"listen 127.0.0.1:{port};"),
    ]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Nginx:
    """nginx in front of the servers of a configuration, on a free port."""

    def __init__(self, directory, configuration, addresses):
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        assert nginx, "this test needs nginx"
        self.port = free_port()
        path = os.path.join(directory, "nginx.conf")
        with open(path, "w") as file:
            file.write(CONFIGURATION.format(directory=directory, servers=configuration(addresses, self.port)))
        self.process = subprocess.Popen([nginx, "-c", path, "-p", directory])

    def __enter__(self):
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise AssertionError("nginx does not listen")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=10)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def test_no_request_is_lost(nginx):
    def client(number):
        connection = nginx.connect()
        for seed in range(number, REQUESTS, CLIENTS):
            response = post(connection, "/microgpt/v1/generate", {"seed": seed})
            body = json.loads(response.read())
            assert response.status == 200 and len(body["samples"]) == 1, (response.status, body)

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, range(CLIENTS)))


def test_idle_upstream_connections_are_usable(nginx):
    connection = nginx.connect()
    for pause in (0, 12):
        time.sleep(pause)
        response = post(connection, "/microgpt/v1/generate", {})
        assert response.status == 200
        response.read()


def test_events_are_not_buffered(nginx):
    connection = nginx.connect()
    # Seconds of generation: a buffered response would arrive whole.
    body = {"prompt": "a", "stream": True, "n": 50, "max_tokens": 1000, "temperature": 3}
    start = time.monotonic()
    response = post(connection, "/v1/completions", body)
    first = response.read(20)
    until_first = time.monotonic() - start
    assert first.startswith(b"data: {")
    rest = response.read()
    until_last = time.monotonic() - start
    assert rest.endswith(b"data: [DONE]\n\n")
    assert until_first < until_last / 4, (until_first, until_last)


class Load:
    """Clients that send requests until the load is left, every other one for a stream."""

    def __init__(self, nginx):
        self.nginx = nginx
        self.done = threading.Event()
        self.counters = threading.Lock()
        self.answered = 0
        self.cut_streams = 0
        self.clients = concurrent.futures.ThreadPoolExecutor(CLIENTS)

    def __enter__(self):
        self.results = [self.clients.submit(self.client) for _ in range(CLIENTS)]
        return self

    def __exit__(self, *_):
        self.done.set()
        for result in self.results:
            result.result()

    def client(self):
        while not self.done.is_set():
            response = post(self.nginx.connect(), "/microgpt/v1/generate", {"num_samples": 2})
            body = response.read()
            assert response.status == 200, (response.status, body)
            assert len(json.loads(body)["samples"]) == 2, body

            body = {"prompt": "a", "stream": True, "n": 4, "max_tokens": 200, "temperature": 3}
            response = post(self.nginx.connect(), "/v1/completions", body)
            assert response.status == 200, (response.status, response.read())
            try:
                complete = response.read().endswith(b"data: [DONE]\n\n")
            except (http.client.IncompleteRead, ConnectionError):
                complete = False
            with self.counters:
                self.cut_streams += not complete
                self.answered += 2

    def wait_for(self, requests):
        """Waits until this many more requests are answered."""
        goal = self.answered + requests
        while self.answered < goal:
            for result in self.results:
                assert not result.done(), result.result()
            time.sleep(0.05)


def test_two_servers_killed_and_stopped_under_load(directory, model):
    with contextlib.ExitStack() as servers:

        def serve(port=0):
            server = program.Server(directory, model, port=port)
            servers.callback(server.process.kill)
            return server

        first, second = serve(), serve()
        addresses = [server.url.removeprefix("http://") for server in (first, second)]
        nginx = servers.enter_context(Nginx(directory, two_servers, addresses))
        with Load(nginx) as load:
            load.wait_for(4 * CLIENTS)
            first.process.kill()
            first.process.wait()
            load.wait_for(4 * CLIENTS)
        # Each client has at most one stream in progress.
        print(f"killed: {load.answered} requests answered, streams cut: {load.cut_streams}")
        assert load.cut_streams <= CLIENTS, load.cut_streams

        first = serve(port=addresses[0].split(":")[1])
        time.sleep(2)  # nginx tries a failed server again after a second
        with Load(nginx) as load:
            load.wait_for(4 * CLIENTS)
            second.stop()
            load.wait_for(4 * CLIENTS)
        print(f"stopped: {load.answered} requests answered, streams cut: {load.cut_streams}")
        assert load.cut_streams == 0
        first.stop()


def main():
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "model", "--steps", "30")
        options = ("--text", "--steps", "1", "--n-embd", "64", "--n-layer", "2", "--block-size", "64")
        with open(os.path.join(directory, "text"), "w") as file:
            file.write("a quick brown fox jumps over the lazy dog\n" * 40)
        program.train(directory, "slow", "--input", "text", *options)
        for model, tests in [
            ("model", (test_no_request_is_lost, test_idle_upstream_connections_are_usable)),
            ("slow", (test_events_are_not_buffered,)),
        ]:
            with program.Server(directory, model) as server:
                with Nginx(directory, one_server, server.url.removeprefix("http://")) as nginx:
                    for test in tests:
                        test(nginx)
                        print(f"{test.__name__}: ok")
        test_two_servers_killed_and_stopped_under_load(directory, "slow")
        print("test_two_servers_killed_and_stopped_under_load: ok")


if __name__ == "__main__":
    main()
