"""Puts nginx in front of a server, with kept-alive connections to it: no request of 10,000 is lost, and
no event is held back.

usage: python proxy.py PATH_TO_MICROGPT
"""

import concurrent.futures
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
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
    upstream microgpt {{ server {server}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://microgpt;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Nginx:
    def __init__(self, directory, server):
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        assert nginx, "this test needs nginx"
        self.port = free_port()
        path = os.path.join(directory, "nginx.conf")
        with open(path, "w") as file:
            file.write(CONFIGURATION.format(directory=directory, server=server, port=self.port))
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
                with Nginx(directory, server.url.removeprefix("http://")) as nginx:
                    for test in tests:
                        test(nginx)
                        print(f"{test.__name__}: ok")


if __name__ == "__main__":
    main()
