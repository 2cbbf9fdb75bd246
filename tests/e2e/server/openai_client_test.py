"""The official client against a running server: TENFOLD_URL, or a server on the model TENFOLD_MODEL
that this starts with the program TENFOLD."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import unittest

import openai

MODEL = os.environ.get("TENFOLD_MODEL", "")
BINARY = os.environ.get("TENFOLD", "build/ci/tools/tenfold")
KEY = "test-key"


def start(*flags):
    """A server on a free port, once it answers: its process and address."""
    process = subprocess.Popen([BINARY, "serve", "-m", MODEL, "--port", "0", "--quiet",
                                "--api-key", KEY, "--alias", "served", *flags],
                               stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    if not url:
        sys.exit("the server did not start")
    return process, url


class ServerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.process, cls.url = start("--parallel", "4", "--queue", "4")
        cls.client = openai.OpenAI(base_url=cls.url + "/v1", api_key=KEY, max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.process.send_signal(signal.SIGTERM)
        assert cls.process.wait(timeout=30) == 0
        cls.process.stdout.close()

    def chat(self, text="Name a colour.", **options):
        options = {"max_tokens": 16, "temperature": 0, **options}
        return self.client.chat.completions.create(
            model="served", messages=[{"role": "user", "content": text}], **options)

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["served"])
        self.assertEqual(self.client.models.retrieve("served").id, "served")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")

    def test_chat_and_stream_agree(self):
        whole = self.chat()
        self.assertIn(whole.choices[0].finish_reason, ("stop", "length"))
        text, usage = "", None
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            usage = chunk.usage or usage
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(usage.prompt_tokens, whole.usage.prompt_tokens)

    def test_the_next_turn_is_cached(self):
        messages = [{"role": "user", "content": "Tell me of the sea, the ships and the weather."}]
        options = {"model": "served", "max_tokens": 12, "temperature": 0}
        first = self.client.chat.completions.create(messages=messages, **options)
        messages += [{"role": "assistant", "content": first.choices[0].message.content},
                     {"role": "user", "content": "Go on."}]
        second = self.client.chat.completions.create(messages=messages, **options)
        self.assertGreaterEqual(second.usage.prompt_tokens_details.cached_tokens,
                                first.usage.prompt_tokens)

    def test_n_seed_and_stop(self):
        options = {"n": 3, "temperature": 1.0, "seed": 5}
        first, again = (
            [c.message.content for c in self.chat(**options).choices] for _ in range(2))
        self.assertEqual(first, again)
        self.assertEqual(len(set(first)), 3)
        whole = self.chat(max_tokens=24).choices[0].message.content
        stop = whole[len(whole) // 2:len(whole) // 2 + 2]
        cut = self.chat(max_tokens=24, stop=[stop]).choices[0]
        self.assertEqual(cut.message.content, whole[:whole.index(stop)])
        self.assertEqual(cut.finish_reason, "stop")

    def test_logprobs(self):
        choice = self.chat(logprobs=True, top_logprobs=3, max_tokens=5).choices[0]
        for token in choice.logprobs.content:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].logprob, token.logprob)
        whole = b"".join(bytes(t.bytes) for t in choice.logprobs.content)
        self.assertEqual(whole.decode(errors="replace"), choice.message.content)

    def test_completions(self):
        answer = self.client.completions.create(model="served", prompt=["One, two,", "Red, green,"],
                                                max_tokens=4, temperature=0, logprobs=2, echo=True)
        self.assertEqual(len(answer.choices), 2)
        for choice in answer.choices:
            self.assertIsNone(choice.logprobs.token_logprobs[0])
            self.assertEqual(len(choice.logprobs.tokens), len(choice.logprobs.token_logprobs))
        self.assertIn("One, two,", answer.choices[0].text)

    def test_responses(self):
        answer = self.client.responses.create(model="served", input="Name a colour.",
                                              max_output_tokens=8, temperature=0)
        text = "".join(event.delta for event in self.client.responses.create(
            model="served", input="Name a colour.", max_output_tokens=8, temperature=0, stream=True)
            if event.type == "response.output_text.delta")
        self.assertEqual(text, answer.output_text)

    def test_embeddings(self):
        answer = self.client.embeddings.create(model="served", input=["a cat", "a dog"])
        plain = self.client.embeddings.create(model="served", input=["a cat"],
                                              encoding_format="float")
        self.assertEqual(len(answer.data), 2)
        for a, b in zip(answer.data[0].embedding, plain.data[0].embedding):
            self.assertAlmostEqual(a, b, places=5)

    def test_json_schema(self):
        schema = {"type": "object", "additionalProperties": False, "required": ["name", "age"],
                  "properties": {"name": {"type": "string", "maxLength": 12},
                                 "age": {"type": "integer", "minimum": 0, "maximum": 120}}}
        for seed in range(3):
            answer = self.chat("Describe a person as JSON.", temperature=1.0, seed=seed,
                               max_tokens=200,
                               response_format={"type": "json_schema",
                                                "json_schema": {"name": "p", "schema": schema}})
            person = json.loads(answer.choices[0].message.content)
            self.assertEqual(set(person), {"name", "age"})
            self.assertTrue(0 <= person["age"] <= 120)

    def test_tools(self):
        tool = {"type": "function", "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "required": ["city"], "additionalProperties": False,
                           "properties": {"city": {"type": "string", "maxLength": 20}}}}}
        answer = self.chat("What is the weather in Rome?", tools=[tool], tool_choice="required",
                           max_tokens=200)
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        self.assertIn("city", json.loads(call.function.arguments))
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        messages = [{"role": "user", "content": "What is the weather in Rome?"},
                    answer.choices[0].message,
                    {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        after = self.client.chat.completions.create(model="served", messages=messages, tools=[tool],
                                                    tool_choice="none", max_tokens=8)
        self.assertIsNone(after.choices[0].message.tool_calls)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=-1)
        self.assertEqual(caught.exception.body["param"], "temperature")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(extra_body={"sparkle": 1})
        self.assertEqual(caught.exception.body["param"], "sparkle")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("word " * 20000)
        self.assertEqual(caught.exception.body["code"], "context_length_exceeded")
        stranger = openai.OpenAI(base_url=self.url + "/v1", api_key="wrong", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            stranger.models.list()

    def test_a_full_queue_is_429(self):
        # Eight may run and wait; the ninth is told to come back.
        streams = [self.chat(stream=True, max_tokens=200, extra_body={"ignore_eos": True})
                   for _ in range(8)]
        with self.assertRaises(openai.RateLimitError) as caught:
            self.chat()
        self.assertEqual(caught.exception.response.headers["Retry-After"], "1")
        for stream in streams:
            stream.close()
        self.wait_until_idle()

    def metric(self, name):
        import urllib.request
        request = urllib.request.Request(self.url + "/metrics",
                                         headers={"Authorization": "Bearer " + KEY})
        with urllib.request.urlopen(request) as reply:
            lines = reply.read().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))

    def wait_until_idle(self):
        end = time.monotonic() + 10
        while self.metric("tenfold_generations_running") + \
                self.metric("tenfold_generations_waiting") > 0:
            self.assertLess(time.monotonic(), end, "what nobody reads still runs")
            time.sleep(0.05)

    def test_timeout_and_cancel_free_their_place(self):
        impatient = self.client.with_options(timeout=0.01)
        with self.assertRaises(openai.APITimeoutError):
            impatient.chat.completions.create(
                model="served", messages=[{"role": "user", "content": "x"}], max_tokens=100000,
                extra_body={"ignore_eos": True})
        self.wait_until_idle()
        stream = self.chat(stream=True, max_tokens=200, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.wait_until_idle()

    def test_company_changes_nothing(self):
        prompts = [f"Count from {i} to ten." for i in range(8)]
        alone = [self.chat(p).choices[0].message.content for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda p: self.chat(p).choices[0].message.content, prompts))
        self.assertEqual(alone, together)


class LifeTest(unittest.TestCase):
    def test_termination_lets_an_answer_finish(self):
        process, url = start()
        client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
        stream = client.completions.create(model="served", prompt="x", max_tokens=40, stream=True,
                                           extra_body={"ignore_eos": True})
        events = iter(stream)
        next(events)
        process.send_signal(signal.SIGTERM)
        last = None
        for event in events:
            last = event
        self.assertEqual(last.choices[0].finish_reason, "length")
        self.assertEqual(process.wait(timeout=30), 0)
        process.stdout.close()

    def test_termination_cuts_what_takes_too_long(self):
        process, url = start("--grace", "0")
        client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
        stream = client.completions.create(model="served", prompt="x", max_tokens=100000,
                                           stream=True, extra_body={"ignore_eos": True})
        events = iter(stream)
        next(events)
        process.send_signal(signal.SIGTERM)
        with self.assertRaises(openai.APIError) as caught:
            for _ in events:
                pass
        self.assertIn("shutting down", str(caught.exception))
        self.assertEqual(process.wait(timeout=30), 0)
        process.stdout.close()

    def test_what_keeps_it_from_starting_is_one_sentence(self):
        process, url = start()
        port = url.rsplit(":", 1)[1]
        for flags, text in ((["--port", port], "in use"), (["-m", "/nothing"], "/nothing"),
                            (["--api-key-file", "/nothing"], "/nothing"),
                            (["--host", "0.0.0.0"], "--api-key")):
            with self.subTest(flags=flags):
                command = [BINARY, "serve", *(["-m", MODEL] if "-m" not in flags else []),
                           *(["--port", "0"] if "--port" not in flags else []), *flags]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                lines = [l for l in done.stderr.splitlines() if l.startswith("tenfold: ")]
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(len(lines), 1, done.stderr)
                self.assertIn(text, lines[0])
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 0)
        process.stdout.close()


if __name__ == "__main__":
    unittest.main()
