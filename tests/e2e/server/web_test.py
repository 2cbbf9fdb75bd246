#!/usr/bin/env python3
"""The chat page, server/web/index.html, in a real browser.

  python3 -m venv VENV && VENV/bin/pip install playwright   # no `playwright install` is needed
  VENV/bin/python tests/e2e/server/web_test.py

The browser is Debian's Chromium (CHROMIUM names another one). The page comes from TENFOLD_URL, say
a running `tenfold serve`, or else from a small server in this file that sends it under the same
strict Content-Security-Policy. Tests that need a particular answer replace the API in the browser,
so they hold for both. TENFOLD_SCREENSHOTS names a folder for pictures of the page.
"""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import threading
import time
import unittest

from playwright.sync_api import expect, sync_playwright

PAGE = pathlib.Path(__file__).resolve().parents[3] / "server" / "web" / "index.html"
MODEL = "tiny-random.gguf"
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 12,
    "total_tokens": 32,
    "prompt_tokens_details": {"cached_tokens": 8},
}


def policy(html):
    """The Content-Security-Policy the server sends, with the hashes of this page."""

    def hash_of(tag):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; script-src {hash_of('script')}; style-src {hash_of('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


def chunk(text=None, finish=None, **more):
    choices = [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]
    return {"object": "chat.completion.chunk", "model": MODEL, "choices": choices, **more}


def events(*objects):
    lines = [o if isinstance(o, str) else json.dumps(o) for o in objects]
    return "".join(f"data: {line}\n\n" for line in lines)


def answer(text, finish="stop", usage=USAGE):
    """A whole stream: the text in small pieces, then the end."""
    pieces = [chunk(text[i : i + 7]) for i in range(0, len(text), 7)]
    return events(*pieces, chunk(finish=finish), {"choices": [], "usage": usage}, "[DONE]")


def error(message, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class StandIn(http.server.BaseHTTPRequestHandler):
    """Stands in for `tenfold serve`: the page and an API whose model says one sentence, slowly."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, kind, body, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/":
            html = PAGE.read_text()
            headers = [
                ("Content-Security-Policy", policy(html)),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
            ]
            self.reply(200, "text/html; charset=utf-8", html.encode(), headers)
        elif path == "/health":
            self.reply(200, "application/json", b'{"status":"ok"}')
        elif path == "/v1/models":
            models = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            self.reply(200, "application/json", json.dumps(models).encode())
        else:
            self.reply(404, "application/json", json.dumps(error("no such path")).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for word in "Hello from the stand-in server .".split():
                self.wfile.write(events(chunk(word + " ")).encode())
                self.wfile.flush()
                time.sleep(0.03)
            end = events(chunk(finish="stop"), {"choices": [], "usage": USAGE}, "[DONE]")
            self.wfile.write(end.encode())
        except OSError:
            pass  # the page stopped reading
        self.close_connection = True


# Replaces fetch for chat completions by a stream that the test feeds: window.feed.
FEED = """
window.feed = {requests: [], aborted: 0};
const real = window.fetch;
window.fetch = (url, options) => {
  if (!String(url).includes('chat/completions')) return real(url, options);
  feed.requests.push(JSON.parse(options.body));
  const body = new ReadableStream({start(controller) { feed.controller = controller; }});
  options.signal.addEventListener('abort', () => {
    feed.aborted++;
    try { feed.controller.error(new DOMException('aborted', 'AbortError')); } catch {}
  });
  return Promise.resolve(new Response(body, {headers: {'Content-Type': 'text/event-stream'}}));
};
feed.raw = (text) => feed.controller.enqueue(new TextEncoder().encode(text));
feed.text = (content) =>
  feed.raw(`data: ${JSON.stringify({choices: [{index: 0, delta: {content}}]})}\\n\\n`);
feed.fail = () => feed.controller.error(new TypeError('network error'));
"""

WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation',
  (e) => violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
"""

STORY = """Sorting ten million integers fits in memory, so the simplest tool is usually the fastest. \
In **C++** you would write `std::sort`:

```cpp
#include <algorithm>
#include <vector>

void sort_ids(std::vector<int>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}
```

### What to watch

1. **Memory.** Ten million `int` values take 40 MB.
2. **Order.** `std::sort` is not *stable*:
   - use `std::stable_sort` if equal elements must keep their order
   - it needs up to as much memory again
3. **Keys.** For 32-bit keys a radix sort reads the data only four times.

| algorithm | time | extra memory | stable |
|---|--:|--:|:-:|
| introsort | 0.78 s | none | no |
| merge sort | 0.91 s | 40 MB | yes |
| radix sort | 0.11 s | 40 MB | yes |

> Measure first: the numbers above depend on the machine.

More about it at [cppreference](https://en.cppreference.com/w/cpp/algorithm/sort)."""


def setUpModule():
    global playwright, browser, base_url
    base_url = os.environ.get("TENFOLD_URL", "").rstrip("/")
    if not base_url:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        unittest.addModuleCleanup(server.shutdown)
        base_url = f"http://127.0.0.1:{server.server_port}"
    playwright = sync_playwright().start()
    unittest.addModuleCleanup(playwright.stop)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
    unittest.addModuleCleanup(browser.close)
    expect.set_options(timeout=5000)


class WebTest(unittest.TestCase):
    def setUp(self):
        self.open_context()

    def open_context(self, **options):
        if hasattr(self, "context"):
            self.context.close()
        options.setdefault("viewport", {"width": 1280, "height": 800})
        options.setdefault("reduced_motion", "reduce")
        self.context = browser.new_context(**options)
        self.context.add_init_script(WATCH)
        self.problems = []
        self.bodies = []
        self.new_page()

    def new_page(self):
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda e: self.problems.append(f"exception: {e}"))
        self.page.on("request", self.on_request)

    def tearDown(self):
        try:
            self.assertEqual(self.page.evaluate("window.violations"), [])
            self.assertEqual(self.problems, [])
        finally:
            self.context.close()

    def on_console(self, message):
        # The browser itself reports answers such as 401 and 429, which some tests want.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.problems.append(f"console: {message.text}")

    def on_request(self, request):
        if not request.url.startswith((base_url, "data:", "blob:")):
            self.problems.append(f"request to {request.url}")

    # What the API answers. chat: a stream, a (status, body, headers), or a list of these in turn.
    def mock(self, chat=None, models=(MODEL,), health=200):
        replies = list(chat) if isinstance(chat, list) else None

        def on_chat(route):
            self.bodies.append(route.request.post_data_json)
            self.keys = route.request.headers.get("authorization")
            reply = chat if replies is None else replies.pop(0)
            if isinstance(reply, str):
                reply = (200, reply, {"Content-Type": "text/event-stream"})
            status, body, headers = reply
            body = body if isinstance(body, str) else json.dumps(body)
            route.fulfill(status=status, body=body, headers=headers)

        listing = {"object": "list", "data": [{"id": m, "object": "model"} for m in models]}
        self.page.route("**/health", lambda r: r.fulfill(status=health, json={"status": "x"}))
        self.page.route("**/v1/models", lambda r: r.fulfill(json=listing))
        if chat is not None:
            self.page.route("**/v1/chat/completions", on_chat)

    def go(self, query=""):
        self.page.goto(f"{base_url}/{query}")
        expect(self.page.locator("#state")).to_have_attribute("data-state", "ready")

    def feed(self):
        """Opens the page with a stream that the test feeds."""
        self.page.add_init_script(FEED)
        self.mock()
        self.go()

    def say(self, text):
        self.page.locator("#input").fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text, chat):
        self.mock(chat)
        self.go()
        self.say(text)
        return self.finished()

    def finished(self, count=1):
        answers = self.page.locator(".assistant")
        expect(answers).to_have_count(count)
        expect(answers.last).not_to_have_attribute("aria-busy", "true")
        expect(answers.last.locator(".foot .actions")).to_have_count(1)
        return answers.last.locator(".body")

    def users(self):
        return self.page.locator(".user .body").all_inner_texts()


class Streaming(WebTest):
    def test_the_server_answers(self):
        """Nothing is replaced here: against `tenfold serve` this is the whole path."""
        self.go()
        self.say("Hello")
        self.page.wait_for_timeout(200)
        expect(self.page.locator(".assistant")).to_have_count(1)
        expect(self.page.locator(".assistant .stats")).to_contain_text("token", timeout=30000)
        button = self.page.locator("#send")
        if button.get_attribute("aria-label") == "Stop":
            self.page.wait_for_timeout(500)
            self.page.keyboard.press("Escape")
        self.finished()
        self.assertEqual(self.users(), ["Hello"])
        self.assertIn("Tenfold", self.page.title())

    def test_text_appears_while_it_is_written(self):
        self.feed()
        self.say("Hi")
        expect(self.page.locator(".waiting")).to_be_visible()
        body = self.page.locator(".assistant .body")
        self.page.evaluate("feed.text('One **two')")
        expect(body).to_have_text("One **two")
        expect(self.page.locator(".waiting")).to_be_hidden()
        self.page.evaluate("feed.text('** three.\\n\\n```py\\na = 1\\nx = ')")
        expect(body.locator("strong")).to_have_text("two")
        expect(body.locator(".code")).to_contain_text("x = ")
        self.page.evaluate("document.querySelector('.md > p').seen = true")
        # A character and an event cut into pieces by the network.
        self.page.evaluate(
            """() => {
              const line = 'data: {"choices":[{"delta":{"content":"\\u00e9\\u20ac"}}]}\\r\\n\\r\\n';
              for (const byte of new TextEncoder().encode(line)) feed.controller.enqueue(Uint8Array.of(byte));
              feed.raw(': a comment\\n\\n');
            }"""
        )
        expect(body.locator("pre")).to_contain_text("x = é€")
        self.assertTrue(self.page.evaluate("document.querySelector('.md > p').seen"), "kept its element")
        usage = json.dumps({"choices": [], "usage": USAGE})
        self.page.evaluate("(u) => feed.raw(`data: ${u}\\n\\ndata: [DONE]\\n\\n`)", usage)
        self.finished()
        stats = self.page.locator(".assistant .stats")
        for part in ("12 tokens", "tokens/s", "first after", "prompt 20 (8 cached)"):
            expect(stats).to_contain_text(part)
        expect(self.page.locator("#announce")).to_contain_text("Answer finished. One **two")
        self.assertEqual(self.page.title(), "tiny-random · Tenfold")

    def test_markdown(self):
        body = self.ask("Sort", answer(STORY))
        expect(body.locator("h3.level3")).to_have_text("What to watch")
        expect(body.locator("ol > li")).to_have_count(3)
        expect(body.locator("ol ul > li")).to_have_count(2)
        expect(body.locator("tbody tr")).to_have_count(3)
        expect(body.locator("blockquote")).to_contain_text("Measure first")
        expect(body.locator(".code header span")).to_have_text("cpp")
        link = body.locator("a")
        self.assertEqual(link.get_attribute("rel"), "noopener noreferrer nofollow")
        self.assertEqual(link.get_attribute("target"), "_blank")
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        body.get_by_role("button", name="Copy").click()
        expect(self.page.locator("#announce")).to_have_text("Copied")
        self.assertIn("std::unique", self.page.evaluate("navigator.clipboard.readText()"))

    def test_hostile_markup_stays_text(self):
        attack = "\n\n".join([
            "<img src=x onerror=\"window.hit=1\"> <script>window.hit=1</script> <svg/onload=hit=1>",
            "[a](javascript:window.hit=1) [b](data:text/html,<script>1</script>) [c](  JaVaScRiPt:alert(1))",
            "[d](java\nscript:alert(1)) [e](vbscript:x) [f](/relative) [g](//evil.example/x) <javascript:alert(1)>",
            "![image](https://evil.example/x.png) ![x](javascript:alert(1)) [![i](https://a.example/i.png)](data:x)",
            "**[*`<b>`*](javascript:alert(1))** [<img src=x onerror=hit=1>](https://ok.example/\"onclick=\"hit=1)",
            "- > # <iframe src=javascript:alert(1)></iframe>\n- <style>*{display:none}</style>",
            "| <b>x</b> | [h](javascript:1) |\n|---|---|\n| <a href=x onclick=hit=1> | `</code><script>` |",
            "```<script>\n</code></pre><img src=x onerror=hit=1>\n```",
            "&lt;script&gt;hit=1&lt;/script&gt; <a href=\"javascript:hit=1\">x</a>",
        ])
        self.bodies.clear()
        body = self.ask("<img src=x onerror=hit=1>", answer(attack))
        tags = body.evaluate("e => [...new Set([...e.querySelectorAll('*')].map((x) => x.localName))]")
        known = "p br a em strong code div header span button svg use pre table thead tbody tr th td ul li "
        self.assertLessEqual(set(tags), set((known + "blockquote h3").split()))
        links = body.evaluate("e => [...e.querySelectorAll('a')].map((a) => a.href)")
        for link in links:
            self.assertRegex(link, r"^https://(evil|ok|a)\.example/")
        handlers = self.page.evaluate(
            "[...document.querySelectorAll('*')].flatMap((e) => [...e.attributes])"
            ".filter((a) => a.name.startsWith('on') || a.name === 'style' && a.ownerElement.closest('.md')).length"
        )
        self.assertEqual(handlers, 0)
        self.assertIsNone(self.page.evaluate("window.hit ?? null"))
        self.assertEqual(self.users(), ["<img src=x onerror=hit=1>"])
        expect(body).to_contain_text("<script>window.hit=1</script>")

    def test_hostile_sizes_do_not_hang_the_page(self):
        self.feed()
        self.say("Hi")
        for part in ("'> '.repeat(20000)", "'x'.repeat(1e6)", "'\\n- '.repeat(30000)", "'[a]('.repeat(9000)"):
            began = time.monotonic()
            self.page.evaluate(f"feed.text({part})")
            self.page.evaluate("new Promise((r) => requestAnimationFrame(() => setTimeout(r)))")
            self.assertLess(time.monotonic() - began, 3, part)
        self.page.keyboard.press("Escape")
        self.finished()
        depth = self.page.evaluate(
            "Math.max(...[...document.querySelectorAll('.md *')].map((e) => { let d = 0;"
            " for (; e; e = e.parentElement) d++; return d; }))"
        )
        self.assertLess(depth, 60)


class Control(WebTest):
    def test_stop_keeps_the_partial_answer(self):
        self.feed()
        self.say("Hi")
        self.page.evaluate("feed.text('Half an answer')")
        expect(self.page.locator(".assistant .body")).to_have_text("Half an answer")
        self.page.get_by_role("button", name="Stop").click()
        expect(self.finished()).to_have_text("Half an answer")
        self.assertEqual(self.page.evaluate("feed.aborted"), 1)
        expect(self.page.locator(".notice")).to_contain_text("You stopped this answer")
        self.page.get_by_role("button", name="Continue").click()
        expect(self.page.get_by_role("button", name="Stop")).to_be_visible()
        messages = self.page.evaluate("feed.requests[1].messages")
        self.assertEqual(messages[-1], {"role": "assistant", "content": "Half an answer"})
        self.page.evaluate("feed.text(', made whole.'); feed.raw('data: [DONE]\\n\\n')")
        expect(self.finished()).to_have_text("Half an answer, made whole.")
        expect(self.page.locator(".notice")).to_have_count(0)

    def test_regenerate(self):
        self.ask("Hi", [answer("First."), answer("Second.")])
        self.page.get_by_role("button", name="Regenerate answer").click()
        expect(self.page.locator(".assistant .body")).to_have_text("Second.")
        self.finished()
        self.assertEqual(self.bodies[0]["messages"], self.bodies[1]["messages"])
        self.assertEqual(self.bodies[1]["messages"], [{"role": "user", "content": "Hi"}])

    def test_regenerate_that_fails_keeps_the_answer(self):
        self.ask("Hi", [answer("First."), (429, error("busy"), {}), answer("Second.")])
        self.page.get_by_role("button", name="Regenerate answer").click()
        expect(self.page.locator(".notice")).to_contain_text("busy. This is the answer from before.")
        expect(self.page.locator(".assistant .body")).to_have_text("First.")
        self.page.get_by_role("button", name="Regenerate", exact=True).click()
        expect(self.page.locator(".assistant .body")).to_have_text("Second.")
        expect(self.page.locator(".notice")).to_have_count(0)

    def test_edit_cuts_the_conversation(self):
        self.ask("One", [answer("1."), answer("2."), answer("1 again.")])
        self.say("Two")
        self.finished(2)
        self.page.locator(".user").first.hover()
        self.page.get_by_role("button", name="Edit message").first.click()
        box = self.page.get_by_role("textbox", name="Edit message")
        expect(box).to_be_focused()
        box.press("Escape")
        self.assertEqual(self.users(), ["One", "Two"])
        expect(self.page.get_by_role("button", name="Edit message").first).to_be_focused()
        self.page.keyboard.press("Enter")
        box.fill("One, edited")
        box.press("Enter")
        expect(self.finished(1)).to_have_text("1 again.")
        self.assertEqual(self.users(), ["One, edited"])
        self.assertEqual(self.bodies[-1]["messages"], [{"role": "user", "content": "One, edited"}])

    def test_only_set_settings_are_sent(self):
        self.ask("Hi", [answer("a"), answer("b"), answer("c")])
        self.assertEqual(self.bodies[0], {
            "model": MODEL, "messages": [{"role": "user", "content": "Hi"}],
            "stream": True, "stream_options": {"include_usage": True}})
        self.page.get_by_role("button", name="Settings").click()
        page = self.page
        page.get_by_label("System prompt").fill("Be brief.")
        for name, value in (("Temperature", "-1"), ("Top p", "1.5"), ("Top k", "2.5"), ("Seed", "x")):
            page.get_by_label(name).fill(value)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_label("Temperature")).to_be_focused()
        expect(page.locator("#e-temperature")).to_have_text("Temperature must be at least 0.")
        expect(page.locator("#e-top_p")).to_have_text("Top p must be at most 1.")
        expect(page.locator("#e-top_k")).to_have_text("Top k must be a whole number.")
        expect(page.locator("#e-seed")).to_have_text("Seed must be a number.")
        for name, value in (("Temperature", "0"), ("Top p", "0,9"), ("Top k", ""), ("Seed", "7")):
            page.get_by_label(name).fill(value)
        page.get_by_label("Repeat penalty").fill("1.1")
        page.get_by_label("Max tokens").fill("64")
        page.get_by_label("Stop at").fill("END\n\\n\\n")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#settings")).to_be_hidden()
        self.say("Again")
        self.finished(2)
        sent = self.bodies[1]
        self.assertEqual(sent["messages"][0], {"role": "system", "content": "Be brief."})
        expected = {"temperature": 0, "top_p": 0.9, "seed": 7, "repeat_penalty": 1.1, "max_tokens": 64,
                    "stop": ["END", "\n\n"]}
        extra = {k: v for k, v in sent.items() if k not in ("model", "messages", "stream", "stream_options")}
        self.assertEqual(extra, expected)
        page.reload()
        page.keyboard.press("Alt+s")
        expect(page.get_by_label("Temperature")).to_have_value("0")
        page.get_by_role("button", name="Reset").click()
        page.get_by_role("button", name="Save").click()
        self.say("Third")
        self.finished(3)
        self.assertEqual(set(self.bodies[2]), {"model", "messages", "stream", "stream_options"})

    def test_a_parameter_does_not_submit(self):
        self.mock(answer("no"))
        self.go("?q=Hello&prompt=Hello&message=Hello&submit=1#q=Hello")
        self.page.wait_for_timeout(300)
        self.assertEqual(self.bodies, [])
        expect(self.page.locator("#input")).to_have_value("")
        expect(self.page.locator(".msg")).to_have_count(0)

    def test_models_can_be_chosen(self):
        self.mock(answer("x"), models=("a/first.gguf", "b/second.gguf"))
        self.go()
        self.page.get_by_label("Model").select_option("b/second.gguf")
        self.assertEqual(self.page.title(), "second · Tenfold")
        self.say("Hi")
        self.finished()
        self.assertEqual(self.bodies[0]["model"], "b/second.gguf")

    def test_the_end_is_followed_only_from_the_end(self):
        self.feed()
        self.say("Hi")
        self.page.evaluate("feed.text('line\\n\\n'.repeat(100))")
        log = self.page.locator("#log")
        gap = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
        expect(self.page.locator(".md > p")).to_have_count(100)
        self.assertLess(log.evaluate(gap), 3)
        log.hover()
        self.page.mouse.wheel(0, -900)
        jump = self.page.get_by_role("button", name="Jump to latest")
        expect(jump).to_be_visible()
        top = log.evaluate("e => e.scrollTop")
        self.page.evaluate("feed.text('more\\n\\n'.repeat(50))")
        expect(self.page.locator(".md > p")).to_have_count(150)
        self.assertEqual(log.evaluate("e => e.scrollTop"), top)
        jump.click()
        expect(jump).to_be_hidden()
        self.page.evaluate("feed.text('end\\n\\n'.repeat(50))")
        expect(self.page.locator(".md > p")).to_have_count(200)
        self.assertLess(log.evaluate(gap), 3)


class Trouble(WebTest):
    def test_api_key(self):
        self.mock()
        good = {"Content-Type": "text/event-stream"}

        def guarded(reply):
            def handle(route):
                if route.request.headers.get("authorization") == "Bearer s3cret":
                    reply(route)
                else:
                    route.fulfill(status=401, json=error("Invalid API key", "authentication_error"))
            return handle

        listing = {"object": "list", "data": [{"id": MODEL}]}
        self.page.route("**/v1/models", guarded(lambda r: r.fulfill(json=listing)))
        self.page.route("**/v1/chat/completions",
                        guarded(lambda r: r.fulfill(body=answer("In."), headers=good)))
        self.page.goto(base_url)
        box = self.page.get_by_label("Key", exact=True)
        expect(box).to_be_focused()
        self.assertEqual(box.get_attribute("type"), "password")
        box.press("Escape")
        self.page.get_by_role("button", name="Enter key").click()
        box.fill("wrong")
        box.press("Enter")
        expect(self.page.locator("#key-text")).to_have_text("The server did not accept this key.")
        box.fill("s3cret")
        box.press("Enter")
        expect(self.page.locator("#state")).to_have_attribute("data-state", "ready")
        self.say("Hi")
        expect(self.finished()).to_have_text("In.")
        kept = self.page.evaluate("[JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]")
        self.assertNotIn("s3cret", kept[0])
        self.assertIn("s3cret", kept[1])
        # The key is withdrawn: the question comes back, and the answer after it.
        self.page.evaluate("sessionStorage.clear()")
        self.say("Again")
        expect(box).to_be_focused()
        box.fill("s3cret")
        box.press("Enter")
        expect(self.finished(2)).to_have_text("In.")

    def test_busy_server(self):
        busy = (429, error("queue is full", "rate_limit"), {"Retry-After": "3"})
        self.mock([busy, answer("Now.")])
        self.go()
        self.say("Hi")
        expect(self.page.locator(".notice")).to_contain_text("The server is busy. It asks to wait 3 seconds.")
        self.page.get_by_role("button", name="Try again").click()
        expect(self.finished()).to_have_text("Now.")
        self.assertEqual(self.users(), ["Hi"])

    def test_bad_request_shows_the_reason(self):
        self.mock([(400, error("the prompt has 9000 tokens"), {}), answer("ok")])
        self.go()
        self.say("Hi")
        expect(self.page.locator(".notice")).to_contain_text("the prompt has 9000 tokens")
        self.say("Shorter")
        self.finished()
        self.assertEqual(self.bodies[1]["messages"], [{"role": "user", "content": "Hi\n\nShorter"}])

    def test_error_in_mid_stream(self):
        stream = events(chunk("Part"), error("the device failed", "server_error"))
        body = self.ask("Hi", [stream, answer("Whole.")])
        expect(body).to_have_text("Part")
        expect(self.page.locator(".notice")).to_contain_text("the device failed")
        self.page.get_by_role("button", name="Regenerate", exact=True).click()
        expect(self.finished()).to_have_text("Whole.")

    def test_stream_that_ends_early(self):
        expect(self.ask("Hi", events(chunk("Part")))).to_have_text("Part")
        expect(self.page.locator(".notice")).to_contain_text("connection broke")

    def test_broken_connection(self):
        self.feed()
        self.say("Hi")
        self.page.evaluate("feed.text('Part')")
        expect(self.page.locator(".assistant .body")).to_have_text("Part")
        self.page.evaluate("feed.fail()")
        self.finished()
        expect(self.page.locator(".notice")).to_contain_text("connection broke")
        expect(self.page.get_by_role("button", name="Continue")).to_be_visible()

    def test_token_limit(self):
        self.ask("Hi", answer("Cut", finish="length"))
        expect(self.page.locator(".notice")).to_contain_text("token limit")
        expect(self.page.get_by_role("button", name="Continue")).to_be_visible()

    def test_loading_model(self):
        self.mock(answer("x"), health=503)
        self.page.goto(base_url)
        expect(self.page.locator("#state-text")).to_have_text("Loading the model…")
        self.page.locator("#input").fill("Hi")
        expect(self.page.locator("#send")).to_be_disabled()
        self.page.route("**/health", lambda r: r.fulfill(json={"status": "ok"}))
        expect(self.page.locator("#state")).to_have_attribute("data-state", "ready")
        expect(self.page.locator("#send")).to_be_enabled()

    def test_full_storage(self):
        self.page.add_init_script(
            "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };")
        expect(self.ask("Hi", answer("Still here."))).to_have_text("Still here.")
        expect(self.page.locator("#toast")).to_contain_text("storage is full")


class Conversations(WebTest):
    def test_reload_keeps_them(self):
        self.ask("First question", [answer("**Bold** answer"), answer("Other")])
        self.page.get_by_role("button", name="New chat").click()
        self.say("Second question")
        self.finished()
        self.page.reload()
        self.assertEqual(self.users(), ["Second question"])
        self.page.get_by_role("button", name="First question", exact=True).click()
        expect(self.page.locator(".assistant strong")).to_have_text("Bold")
        expect(self.page.locator(".stats")).to_contain_text("12 tokens")
        self.page.get_by_role("button", name="Rename: First question").click()
        self.page.keyboard.type("Renamed")
        self.page.keyboard.press("Enter")
        expect(self.page.locator("h1")).to_have_text("Renamed")
        self.page.get_by_role("button", name="Delete: Renamed").click()
        self.page.locator("#ask-ok").click()
        expect(self.page.locator("#convs .open")).to_have_count(1)
        self.page.reload()
        expect(self.page.locator("#convs .open")).to_have_text(["Second question"])

    def test_a_reload_in_mid_answer_keeps_the_part(self):
        self.feed()
        self.say("Hi")
        self.page.evaluate("feed.text('Part')")
        expect(self.page.locator(".assistant .body")).to_have_text("Part")
        self.page.reload()
        expect(self.page.locator(".assistant .body")).to_have_text("Part")
        expect(self.page.locator(".notice")).to_contain_text("closed before this answer ended")

    def test_an_answer_goes_on_behind_another_conversation(self):
        self.feed()
        self.say("Slow one")
        self.page.evaluate("feed.text('A')")
        self.page.keyboard.press("Alt+n")
        expect(self.page.locator(".msg")).to_have_count(0)
        self.page.evaluate("feed.text('B')")
        self.page.get_by_role("button", name="Slow one", exact=True).click()
        expect(self.page.locator(".assistant .body")).to_have_text("AB")
        self.page.evaluate("feed.text('C'); feed.raw('data: [DONE]\\n\\n')")
        expect(self.finished()).to_have_text("ABC")

    def test_two_tabs(self):
        self.ask("From the first tab", [answer("1"), answer("2")])
        other = self.context.new_page()
        other.goto(base_url)
        self.assertEqual(other.locator(".assistant .body").inner_text(), "1")
        self.page.get_by_role("button", name="New chat").click()
        self.say("Another")
        self.finished()
        expect(other.locator("#convs .open")).to_have_text(["Another", "From the first tab"])
        other.get_by_role("button", name="Delete: From the first tab").click()
        other.locator("#ask-ok").click()
        expect(self.page.locator("#convs .open")).to_have_text(["Another"])

    def test_export_and_import(self):
        self.ask("Export me", answer("Some *text*"))
        self.page.get_by_role("button", name="Import and export").click()
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name="Export this conversation as Markdown").click()
        text = pathlib.Path(waiting.value.path()).read_text()
        self.assertEqual(waiting.value.suggested_filename, "export-me.md")
        self.assertEqual(text, f"# Export me\n\n## You\n\nExport me\n\n## {MODEL}\n\nSome *text*\n")
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name="Export this conversation as JSON").click()
        exported = pathlib.Path(waiting.value.path()).read_text()
        self.assertEqual(json.loads(exported)["conversations"][0]["messages"][1]["content"], "Some *text*")
        self.load("good.json", exported)
        expect(self.page.locator("#toast")).to_have_text("Imported 1 conversation.")
        expect(self.page.locator("#convs .open")).to_have_count(2)
        expect(self.page.locator(".assistant em")).to_have_text("text")

    def test_bad_imports_change_nothing(self):
        self.mock()
        self.go()
        whole = {"format": "tenfold-conversations", "version": 1}
        message = {"role": "user", "content": 3}
        for text, reason in (
            ("{", "it is not JSON"),
            ("[]", "it does not say"),
            (json.dumps({**whole, "version": 2}), "version 1 only"),
            (json.dumps({**whole, "conversations": [{"title": "x", "messages": [message]}]}),
             "conversations[0].messages[0].content is not text"),
            (json.dumps({**whole, "conversations": [{"title": "x", "messages": [{"role": "system"}]}]}),
             "conversations[0].messages[0].role"),
        ):
            self.load("bad.json", text)
            expect(self.page.locator("#toast")).to_contain_text(reason)
        expect(self.page.locator("#convs .open")).to_have_count(0)

    def load(self, name, text):
        file = {"name": name, "mimeType": "application/json", "buffer": text.encode()}
        self.page.locator("#import-file").set_input_files(file)


class Looks(WebTest):
    def background(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")

    def scheme(self, name):
        self.page.emulate_media(color_scheme=name)
        expect(self.page.locator("html")).to_have_attribute("data-theme", name)

    def test_dark_and_light(self):
        self.mock()
        self.go()
        light = self.background()
        self.scheme("dark")
        self.assertNotEqual(self.background(), light)
        theme = self.page.locator("#theme")
        theme.click()
        expect(theme).to_have_attribute("aria-label", "Theme: light. Switch to dark")
        self.assertEqual(self.background(), light)
        self.page.reload()
        self.assertEqual(self.background(), light)

    def test_contrast(self):
        self.ask("Hi", [answer(STORY), (429, error("x"), {})])
        self.say("More")
        expect(self.page.locator(".notice")).to_be_visible()
        for scheme in ("light", "dark"):
            self.scheme(scheme)
            self.assertEqual(self.page.evaluate(CONTRAST), [], scheme)
            self.page.keyboard.press("Alt+s")
            self.assertEqual(self.page.evaluate(CONTRAST), [], scheme)
            self.page.keyboard.press("Escape")

    def test_phone(self):
        phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
        self.open_context(reduced_motion="no-preference", **phone)
        self.ask("Sort " + "verylongword" * 40, answer(STORY + "\n\n" + "x" * 500))
        self.assertEqual(self.page.evaluate("document.documentElement.scrollWidth"), 390)
        self.assertEqual(self.page.evaluate("document.querySelector('#log').scrollWidth"), 390)
        sizes = self.page.evaluate(
            "[...document.querySelectorAll('input, textarea, select')]"
            ".map((e) => parseFloat(getComputedStyle(e).fontSize))")
        self.assertGreaterEqual(min(sizes), 16)
        composer = self.page.locator("#composer").bounding_box()
        self.assertLessEqual(composer["y"] + composer["height"], 844)
        new = self.page.get_by_role("button", name="New chat")
        expect(new).to_be_hidden()
        self.page.get_by_role("button", name="Conversations", exact=True).tap()
        expect(new).to_be_visible()
        expect(self.page.locator("#close-side")).to_be_focused()
        self.assertTrue(self.page.evaluate("document.querySelector('#main').inert"))
        self.page.keyboard.press("Escape")
        expect(new).to_be_hidden()
        expect(self.page.locator("#menu")).to_be_focused()

    def test_keyboard_only(self):
        self.mock(answer("Yes."))
        self.go()
        expect(self.page.locator("#input")).to_be_focused()
        self.page.keyboard.type("One")
        self.page.keyboard.press("Shift+Enter")
        self.page.keyboard.type("two")
        self.page.keyboard.press("Enter")
        self.finished()
        self.assertEqual(self.users(), ["One\ntwo"])
        reached = set()
        for _ in range(40):
            self.page.keyboard.press("Tab")
            name, outline = self.page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e);"
                " return [e.getAttribute('aria-label') || e.textContent.trim(),"
                " s.outlineStyle !== 'none' || e.id === 'input' || e === document.body]; })()")
            self.assertTrue(outline, f"focus is not visible on {name}")
            reached.add(name)
        for name in ("Skip to the message box", "New chat", "One two", "Delete: One two", "Settings",
                     "Messages", "Copy message", "Regenerate answer", "Message", "Keyboard shortcuts"):
            self.assertIn(name, reached)
        self.page.keyboard.press("Alt+k")
        expect(self.page.locator("#keys")).to_be_visible()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Alt+m")
        self.page.keyboard.press("ArrowUp")
        expect(self.page.get_by_role("textbox", name="Edit message")).to_be_focused()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Alt+n")
        expect(self.page.locator("h1")).to_have_text("New chat")

    def test_accessibility(self):
        self.ask("Hi", answer(STORY))
        self.assertEqual(self.page.get_by_role("heading", level=1).count(), 1)
        for landmark in ("navigation", "banner", "main"):
            self.assertEqual(self.page.get_by_role(landmark).count(), 1, landmark)
        nameless = self.page.evaluate(NAMELESS)
        self.assertEqual(nameless, [])
        self.assertEqual(self.page.locator("html").get_attribute("lang"), "en")
        self.assertEqual(self.page.locator("#announce").get_attribute("aria-live"), "polite")
        ids = self.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        self.assertEqual(len(ids), len(set(ids)))

    def test_screenshots(self):
        folder = os.environ.get("TENFOLD_SCREENSHOTS")
        if not folder:
            self.skipTest("TENFOLD_SCREENSHOTS is not set")
        os.makedirs(folder, exist_ok=True)
        for device, size in (("desktop", (1280, 800)), ("phone", (390, 844))):
            options = {"viewport": {"width": size[0], "height": size[1]}}
            if device == "phone":
                options.update(is_mobile=True, has_touch=True, device_scale_factor=2)
            self.open_context(**options)
            usage = {**USAGE, "prompt_tokens": 412, "completion_tokens": 318}
            self.mock([answer("Write them to a file, one a line.", usage=usage), answer(STORY, usage=usage),
                       answer("The radix sort reads", "length"), (429, error("x"), {"Retry-After": "5"})])
            self.go()
            shoot = lambda name: self.page.screenshot(path=f"{folder}/{device}-{name}.png")
            self.both(shoot, "empty")
            self.say("How do I keep ten million ids?")
            self.finished()
            self.page.evaluate("document.querySelector('#new').click()")
            self.say("What is the best way to sort ten million integers in C++, and what should I watch out for?")
            self.finished()
            self.both(shoot, "chat-end")
            self.page.locator("#log").evaluate("e => { e.scrollTop = 0; }")
            self.page.wait_for_timeout(100)
            self.both(shoot, "chat")
            self.say("Why is it faster?")
            self.finished(2)
            self.say("And on a GPU?")
            expect(self.page.locator(".notice").last).to_contain_text("busy")
            self.both(shoot, "notices")
            self.page.keyboard.press("Alt+s")
            self.both(shoot, "settings")
            self.page.keyboard.press("Escape")
            if device == "phone":
                self.page.locator("#menu").tap()
                self.both(shoot, "drawer")
            else:
                self.page.keyboard.press("Alt+k")
                self.both(shoot, "keys")

    def both(self, shoot, name):
        for scheme in ("light", "dark"):
            self.scheme(scheme)
            shoot(f"{name}-{scheme}")


class Source(unittest.TestCase):
    """What the policy relies on, and what review should not have to look for."""

    def test_one_file_without_dependencies(self):
        html = PAGE.read_text()
        self.assertEqual(len(re.findall(r"<script", html)), 1)
        self.assertEqual(len(re.findall(r"<style", html)), 1)
        markup = html.split("<script>")[0].split("</style>")[1]
        self.assertIsNone(re.search(r"<[a-z][^>]*\s(?:style|on[a-z]+)=", markup))
        script = html.split("<script>")[1]
        for word in ("outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"):
            self.assertNotIn(word, script)
        self.assertEqual(re.findall(r"\.innerHTML", script), [])
        addresses = set(re.findall(r"https?://[\w.]+", html))
        self.assertEqual(addresses, {"http://www.w3.org"})  # the SVG namespace


# Every visible text against what lies behind it: 4.5, or 3 for large text (WCAG 1.4.3).
CONTRAST = """
(() => {
  const scope = document.querySelector('dialog[open]') || document.body;
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (el) => {
    for (; el; el = el.parentElement) {
      const c = parse(getComputedStyle(el).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const el of scope.querySelectorAll('*')) {
    const own = [...el.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !el.checkVisibility() || el.disabled) continue;
    const style = getComputedStyle(el);
    const [a, b] = [light(parse(style.color)), light(behind(el))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < least) bad.push(`${ratio.toFixed(2)} ${el.outerHTML.slice(0, 80)}`);
  }
  return bad;
})()
"""

NAMELESS = """
[...document.querySelectorAll(
  'button, a, input, textarea, select, dialog, nav, section, form.composer')].filter((e) => {
  const by = e.getAttribute('aria-labelledby');
  const name = e.getAttribute('aria-label') || (by && document.getElementById(by).textContent) ||
    (e.labels && e.labels.length && e.labels[0].textContent) ||
    (['BUTTON', 'A'].includes(e.tagName) && e.textContent);
  return !name && e.id !== 'ask-ok' && e.getAttribute('aria-labelledby') !== 'ask-title';
}).map((e) => e.outerHTML.slice(0, 100))
"""


if __name__ == "__main__":
    unittest.main()
