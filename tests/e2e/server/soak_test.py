"""Good, bad, slow and aborted requests, all at once, for TENFOLD_SOAK seconds (8 where it is not set):
every good answer is what the same request says alone, nothing is left running, and memory does not
grow after the first quarter."""

import http.client
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import threading
import time
import unittest

MODEL = os.environ.get("TENFOLD_MODEL", "")
BINARY = os.environ.get("TENFOLD", "build/ci/tools/tenfold")
SECONDS = float(os.environ.get("TENFOLD_SOAK", "8"))
WORKERS = 10
# AddressSanitizer keeps what was freed, which would look like growth.
SMALL_QUARANTINE = ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=4",
                                          "thread_local_quarantine_size_kb=64")))
GOOD = [
    ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}),
    ("/v1/completions", {"prompt": ["One, two,", "Rain in"], "n": 2, "max_tokens": 10, "seed": 3}),
    ("/v1/completions", {"prompt": "x " * 90, "max_tokens": 1, "echo": True, "logprobs": 2,
                         "temperature": 0}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Name a colour."}],
                              "max_tokens": 20, "temperature": 0}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Give me JSON."}],
                              "max_tokens": 60, "seed": 1,
                              "response_format": {"type": "json_schema", "json_schema": {
                                  "name": "x", "schema": {"enum": ["a", "bb", 17]}}}}),
    ("/v1/embeddings", {"input": "some words", "encoding_format": "base64"}),
    ("/tokenize", {"content": "some words"}),
]
BAD = [
    ("/v1/completions", b"{", 400), ("/v1/completions", b"[" * 5000, 400),
    ("/v1/completions", b'{"prompt":"x","spark":1}', 400), ("/v1/nothing", b"{}", 404),
    ("/v1/completions", b'{"prompt":"' + b"word " * 30000 + b'"}', 400),
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}],"model":"none"}', 404),
]


class Soak(unittest.TestCase):
    def setUp(self):
        self.process = subprocess.Popen(
            [BINARY, "serve", "-m", MODEL, "--port", "0", "--quiet", "--parallel", "4", "--queue", "200"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "ASAN_OPTIONS": SMALL_QUARANTINE})
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.counts = {}
        self.problems = []

    def tearDown(self):
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(timeout=60), 0)
        self.process.stdout.close()

    def post(self, path, body: bytes):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    @staticmethod
    def essence(path, status, body):
        """What must be the same each time: not ids, times or what was cached."""
        answer = json.loads(body)
        for key in ("id", "created", "usage"):
            answer.pop(key, None)
        return status, path, json.dumps(answer)

    def good(self, rng):
        i = rng.randrange(len(GOOD))
        path, body = GOOD[i]
        found = self.essence(path, *self.post(path, json.dumps(body).encode()))
        if found != self.alone[i]:
            self.problems.append(f"{body}: {found} instead of {self.alone[i]}")

    def bad(self, rng):
        path, body, expected = rng.choice(BAD)
        status, reply = self.post(path, body)
        if status != expected or "error" not in json.loads(reply):
            self.problems.append(f"{body[:50]}: {status} {reply[:200]}")

    def aborted(self, rng):
        """Leaves before the answer, in its middle, or in the middle of the request."""
        body = json.dumps({"prompt": "Tell me", "max_tokens": 200, "ignore_eos": True,
                           "stream": rng.random() < 0.5}).encode()
        head = (f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            whole = head + body
            client.sendall(whole[:rng.randrange(1, len(whole))] if rng.random() < 0.3 else whole)
            if rng.random() < 0.5:
                client.settimeout(0.05)
                try:
                    client.recv(100)
                except OSError:
                    pass

    def slow(self, rng):
        """Sends and reads a few bytes at a time."""
        body = json.dumps(GOOD[0][1] | {"stream": True}).encode()
        data = (f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            for i in range(0, len(data), 40):
                client.sendall(data[i:i + 40])
                time.sleep(0.005)
            client.settimeout(120)
            text = b""
            while piece := client.recv(64):
                text += piece
        if b"[DONE]" not in text:
            self.problems.append(f"slow: {text[-200:]}")

    def work(self, seed, end):
        rng = random.Random(seed)
        kinds = [self.good] * 5 + [self.bad] * 2 + [self.aborted] * 2 + [self.slow]
        while time.monotonic() < end and len(self.problems) < 5:
            kind = rng.choice(kinds)
            try:
                kind(rng)
            except Exception as error:  # whatever a client sees that it should not
                self.problems.append(f"{kind.__name__}: {error!r}")
            self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1

    def memory(self):
        """Resident bytes that are not of a mapped file."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon"))

    def test_soak(self):
        self.alone = [self.essence(path, *self.post(path, json.dumps(body).encode()))
                      for path, body in GOOD]
        end = time.monotonic() + SECONDS
        workers = [threading.Thread(target=self.work, args=(i, end)) for i in range(WORKERS)]
        for worker in workers:
            worker.start()
        time.sleep(SECONDS / 4)
        warm = self.memory()
        for worker in workers:
            worker.join()
        time.sleep(0.5)
        grown = self.memory() - warm
        print(f"{sum(self.counts.values())} requests {self.counts}; memory {warm} kB after warming up, "
              f"{grown:+} kB since", flush=True)
        self.assertEqual(self.problems, [])
        status, body = self.post("/v1/completions", b'{"prompt":"x","max_tokens":1}')
        self.assertEqual(status, 200, body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
        self.assertIn("\ntenfold_generations_running 0\n", metrics)
        # Prefixes that are kept, and the heap's own habits.
        self.assertLess(grown, 0.1 * warm + 20_000)


if __name__ == "__main__":
    unittest.main()
