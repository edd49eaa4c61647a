"""Tests a server under mixed load, and with a thousand slow connections.

usage: python soak.py PATH_TO_MICROGPT [MINUTES]

Uses the standard library only. Traffic stays on the loopback interface.
"""

import http.client
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time

import program

MINUTES = float(sys.argv[2]) if len(sys.argv) > 2 else 10
JSON = {"Content-Type": "application/json"}


class Server(program.Server):
    def __init__(self, directory):
        program.train(directory, "model", "--chat", "--steps", "50", "--batch-size", "4", "--block-size", "64")
        super().__init__(directory, "model")
        self.host, port = self.url.removeprefix("http://").split(":")
        self.port = int(port)

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=30)

    def state(self):
        """Resident memory in MB, threads, open files."""
        with open(f"/proc/{self.process.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return int(fields["VmRSS"].split()[0]) / 1000, int(fields["Threads"]), files


class Load:
    def __init__(self, server):
        self.server = server
        self.stopping = threading.Event()
        self.counts = {}
        self.unexpected = []
        self.lock = threading.Lock()

    def count(self, kind, status, expected):
        with self.lock:
            self.counts[kind, status] = self.counts.get((kind, status), 0) + 1
            if status not in expected:
                self.unexpected.append((kind, status))

    def valid(self, rng):
        connection = self.server.connect()
        while not self.stopping.is_set():
            message = {"role": "user", "content": "hello " * rng.randint(1, 9)}
            path, body = rng.choice([
                ("/microgpt/v1/generate", {"num_samples": rng.randint(1, 3), "seed": rng.randint(0, 99)}),
                ("/microgpt/v1/chat", {"messages": [message]}),
                ("/v1/chat/completions", {"messages": [message], "stream": rng.random() < 0.5}),
            ])
            connection.request("POST", path, json.dumps(body), JSON)
            response = connection.getresponse()
            text = response.read()
            complete = not body.get("stream") or text.endswith(b"data: [DONE]\n\n")
            self.count("valid", response.status if complete else "truncated", (200,))

    def invalid(self, rng):
        while not self.stopping.is_set():
            connection = self.server.connect()
            method, path, body, headers, expected = rng.choice([
                ("POST", "/microgpt/v1/generate", "{", JSON, 400),
                ("POST", "/microgpt/v1/generate", '{"temperature": -1}', JSON, 400),
                ("POST", "/v1/chat/completions", '{"messages": []}', JSON, 400),
                ("GET", "/microgpt/v1/chat", None, {}, 405),
                ("GET", "/nowhere", None, {}, 404),
                ("POST", "/microgpt/v1/chat", "a=b", {"Content-Type": "text/plain"}, 415),
            ])
            connection.request(method, path, body, headers)
            self.count("invalid", connection.getresponse().status, (expected,))
            connection.close()
            time.sleep(0.01)

    def aborted(self, rng):
        body = json.dumps({"messages": [{"role": "user", "content": "a"}], "stream": True, "n": 50,
                           "temperature": 3})
        while not self.stopping.is_set():
            connection = self.server.connect()
            connection.request("POST", "/v1/chat/completions", body, JSON)
            if rng.random() < 0.7:
                connection.getresponse().read(rng.randint(1, 2000))
            connection.close()
            self.count("aborted", "disconnected", ("disconnected",))
            time.sleep(0.02)

    def slow(self, rng):
        request = b"POST /microgpt/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + b" " * 2000
        while not self.stopping.is_set():
            with socket.create_connection((self.server.host, self.server.port)) as connection:
                for at in range(rng.randint(5, 100)):
                    try:
                        connection.send(request[at:at + 1])
                    except OSError:
                        break
                    if self.stopping.wait(0.2):
                        break
                self.count("slow", "disconnected", ("disconnected",))

    def guard(self, run, seed):
        try:
            run(random.Random(seed))
        except Exception as error:  # reported with the counts
            self.unexpected.append((run.__name__, repr(error)))

    def start(self):
        kinds = [self.valid] * 8 + [self.invalid] * 2 + [self.aborted] * 2 + [self.slow] * 8
        self.threads = [threading.Thread(target=self.guard, args=(run, i)) for i, run in enumerate(kinds)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def soak(server):
    before = server.state()
    print("start: %.1f MB, %d threads, %d files" % before)
    load = Load(server)
    load.start()
    end, memory = time.time() + MINUTES * 60, []
    while time.time() < end:
        time.sleep(min(10, MINUTES * 6))
        memory.append(server.state())
        if len(memory) % 6 == 0:
            print("%3d s: %.1f MB, %d threads, %d files" % (len(memory) * 10, *memory[-1]), flush=True)
    load.stop()
    # An idle connection is closed after ten seconds.
    time.sleep(16)
    after = server.state()
    print("16 s after the end: %.1f MB, %d threads, %d files" % after)
    for (kind, status), count in sorted(load.counts.items(), key=str):
        print(f"{kind} {status}: {count}")
    first_minute = [m for m, _, _ in memory[: max(1, len(memory) // 10)]]
    print(f"memory: {max(first_minute):.1f} MB in the first tenth, {max(m for m, _, _ in memory):.1f} MB at most")
    assert not load.unexpected, load.unexpected[:5]
    assert max(m for m, _, _ in memory) < 1.3 * max(first_minute) + 5, "memory grows"
    assert after[1] <= before[1] and after[2] <= before[2], "threads or files leak"


def median_latency(server):
    times = []
    connection = server.connect()
    for _ in range(300):
        start = time.perf_counter()
        connection.request("POST", "/microgpt/v1/generate", "{}", JSON)
        connection.getresponse().read()
        times.append(time.perf_counter() - start)
    connection.close()
    return statistics.median(times)


def thousand_slow(server):
    idle = median_latency(server)
    connections = []
    stopping = threading.Event()

    def trickle():
        request = b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"x" * 1000
        for at in range(1000):
            for connection in connections:
                try:
                    connection.send(request[at:at + 1])
                except OSError:
                    pass
            if stopping.wait(1):
                return

    for _ in range(1000):
        connections.append(socket.create_connection((server.host, server.port)))
    thread = threading.Thread(target=trickle)
    thread.start()
    time.sleep(5)
    loaded = statistics.median(median_latency(server) for _ in range(5))
    state = server.state()
    stopping.set()
    thread.join()
    for connection in connections:
        connection.close()
    print("1,000 slow connections: %.1f MB, %d threads; latency %.2f ms, without them %.2f ms"
          % (*state[:2], loaded * 1000, idle * 1000))
    assert state[0] < 200 and loaded < 2 * idle


with tempfile.TemporaryDirectory() as directory:
    server = Server(directory)
    try:
        thousand_slow(server)
        time.sleep(12)
        soak(server)
        server.stop()
    finally:
        server.process.kill()
print("soak: 2 passed, 0 failed")
