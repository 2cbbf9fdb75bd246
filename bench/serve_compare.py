#!/usr/bin/env python3
"""Our server beside llama.cpp's: total tokens a second for one client and for eight, and the time to
the first token of a short request while a long prompt is being run.

The servers take turns, several rounds of them; medians are printed. llama.cpp runs Q4_0 of the same
model with a slot for each client and its own best settings (bench/build_llama_cpp.sh native).

  bench/serve_compare.py --build build/release --model SmolLM2.gguf --ours ours.gguf --theirs theirs.gguf
"""

import argparse
import http.client
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time

from measured import cache_folder

LONG_WORDS = 1500  # some 4,000 tokens


def post(port: int, body: dict):
    """The seconds to the first event of a streamed completion, and its usage."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    start = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps({
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **body}),
        {"Content-Type": "application/json"})
    reply = connection.getresponse()
    first, usage = None, None
    for line in reply:
        if not line.startswith(b"data: {"):
            continue
        part = json.loads(line[6:])
        if part.get("choices") and first is None:
            first = time.monotonic() - start
        usage = part.get("usage") or usage
    return first, usage


class Server:
    def __init__(self, command, port: int, ready: str):
        self.port = port
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", ready)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > end or self.process.poll() is not None:
                sys.exit(f"serve_compare.py: did not start: {' '.join(map(str, command))}")
            time.sleep(0.1)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)

    def load(self, bench, clients: int, args) -> dict:
        done = subprocess.run([bench, "--port", str(self.port), "--clients", str(clients),
                               "--requests", str(max(4, 2 * clients)), "--first",
                               str(1000 * clients), "--max-tokens", str(args.max_tokens)],
                              check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)

    def first_token_beside_a_long_prompt(self) -> tuple[float, float, int]:
        """Of a short request that comes while a long prompt runs, of the long one, and its tokens."""
        found = {}
        prompt = " ".join(f"{'winter river stone'.split()[i % 3]} {i}" for i in range(LONG_WORDS // 2))

        def long():
            found["long"], found["usage"] = post(self.port, {"prompt": prompt, "max_tokens": 4})
        thread = threading.Thread(target=long)
        thread.start()
        time.sleep(0.3)
        short, _ = post(self.port, {"prompt": "A short question:", "max_tokens": 4})
        thread.join()
        return short, found["long"], found["usage"]["prompt_tokens"]


def servers(args) -> dict:
    ours = [pathlib.Path(args.build, "tools/tenfold"), "serve", "-m", args.ours, "--port", "8190",
            "--quiet", "--parallel", args.clients]
    llama = cache_folder() / f"llama.cpp-{args.llama_version}/native/bin/llama-server"
    theirs = [llama, "-m", args.theirs, "--port", "8191", "-np", args.clients, "-t", args.threads,
              "-c", args.clients * args.context, "-fa", "on", "--no-ui"]
    return {"Tenfold": (ours, 8190), "llama.cpp": (theirs, 8191)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default="build/release")
    add("--ours", required=True, help="the model that Tenfold serves")
    add("--theirs", help="the one that llama.cpp serves; without it Tenfold runs alone")
    add("--clients", type=int, default=8)
    add("--threads", type=int, default=2)
    add("--context", type=int, default=8192)
    add("--max-tokens", type=int, default=128)
    add("--rounds", type=int, default=5)
    add("--llama-version", default="0.3.36")
    args = parser.parse_args()
    bench = pathlib.Path(args.build, "bench/serve_bench")
    rows = {}
    for round_number in range(args.rounds):
        for name, (command, port) in servers(args).items():
            if name == "llama.cpp" and not args.theirs:
                continue
            server = Server(command, port, "/health")
            try:
                row = rows.setdefault(name, {"one": [], "many": [], "cpu": [], "short": [], "long": []})
                row["one"].append(server.load(bench, 1, args)["tokens_per_second"])
                many = server.load(bench, args.clients, args)
                row["many"].append(many["tokens_per_second"])
                row["cpu"].append(many["client_cpu_seconds"] / many["seconds"])
                short, long, tokens = server.first_token_beside_a_long_prompt()
                row["short"].append(short)
                row["long"].append(long)
            finally:
                server.stop()
        print(f"round {round_number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    print(f"| server | 1 client, tokens/s | {args.clients} clients, tokens/s | ratio | clients' CPU | "
          f"first token beside a prompt of {tokens} tokens, s | of that prompt, s |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        median = {key: statistics.median(values) for key, values in row.items()}
        print(f"| {name} | {median['one']:.1f} | {median['many']:.1f} | "
              f"{median['many'] / median['one']:.2f} | {100 * median['cpu']:.1f} % | "
              f"{median['short']:.2f} | {median['long']:.2f} |")
    if len(rows) == 2:
        pairs = zip(rows["Tenfold"]["many"], rows["llama.cpp"]["many"])
        ratios = sorted(a / b for a, b in pairs)
        print(f"\nTenfold beside llama.cpp, {args.clients} clients: "
              f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} ... {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
