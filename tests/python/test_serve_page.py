"""The page of `osp serve` in a real browser: what is typed, what is shown, the key, and what it must not do.

Most tests use a real server. Where the answer must have a certain text, or come in certain steps, a stand-in
serves the same page with the same policy and writes what the test says.
"""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import browser
import colour_sight
import pytest
from serve_fixture import CONTEXT

READY = "document.getElementById('about').textContent || !document.getElementById('lock').hidden"
IDLE = "document.getElementById('stop').hidden && document.querySelector('.busy') === null"
MESSAGES = """[...document.querySelectorAll('article')].map((a) => ({
  role: a.className, text: a.querySelector('.text').textContent, note: a.querySelector('.note').textContent,
  elements: a.querySelectorAll('.text *').length}))"""


def url_of(server):
    return f"http://127.0.0.1:{server.port}/"


def element(name):
    return f"document.getElementById({json.dumps(name)})"


def press(chromium, key, code, modifiers=0, text=""):
    event = dict(key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers)
    chromium.command("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
    chromium.command("Input.dispatchKeyEvent", type="keyUp", **event)


def enter(chromium, shift=False):
    press(chromium, "Enter", 13, modifiers=8 if shift else 0, text="\r")


def type_text(chromium, text, place="input"):
    chromium.evaluate(f"{element(place)}.focus()")
    chromium.command("Input.insertText", text=text)


def settings(chromium, **values):
    for name, value in values.items():
        chromium.evaluate(f"{element(name)}.value = {json.dumps(str(value))}")


def say(chromium, text):
    """Types a message, sends it with Enter and waits for the end of its answer."""
    type_text(chromium, text)
    enter(chromium)
    chromium.wait(IDLE)
    return chromium.evaluate(MESSAGES)


def foreign(chromium, server):
    return [url for url in chromium.requests if not url.startswith((url_of(server), "data:"))]


def api_text(server, messages, **body):
    answer = server.post("/v1/chat/completions", messages=messages, **body)
    return answer["choices"][0]["message"]["content"], answer["usage"]


def test_the_page_needs_no_key_and_names_its_policy(start_server, serve_folder):
    locked = start_server(serve_folder, "--threads", "1", environment={"OSP_API_KEY": "k"})
    connection = locked.connect()
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("Content-Type") == "text/html; charset=utf-8"
    policy = response.getheader("Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy
    assert "http" not in policy and "unsafe" not in policy
    assert b"<html" in response.read()
    connection.request("GET", "/", headers={"Host": "evil.example"})
    response = connection.getresponse()
    assert response.status == 403 and b"<html" not in response.read()
    connection.close()
    assert locked.request("POST", "/", {})[0] == 405
    assert locked.request("GET", "/page.html")[0] == 401
    assert locked.stop() == 0


def test_a_chat_shows_what_the_api_answers(chromium, server):
    chromium.open(url_of(server), ready=READY)
    assert chromium.evaluate("document.title") == "tiny – osp serve"
    assert str(CONTEXT) in chromium.evaluate(f"{element('about')}.textContent")
    settings(chromium, system="Be brief.", temperature="0", max_completion_tokens="24")
    shown = say(chromium, "Hello")
    body = dict(temperature=0, max_completion_tokens=24)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    expected, usage = api_text(server, chat, **body)
    assert [m["role"] for m in shown] == ["user", "assistant"]
    assert shown[0]["text"] == "Hello" and shown[1]["text"] == expected
    note = shown[1]["note"]
    prompt = f"prompt of {usage['prompt_tokens']} tokens, 0 of them cached"
    assert re.match(rf"24 tokens · [\d.]+ tokens/s · {prompt} · ended by the limit", note), note
    assert chromium.evaluate(f"{element('input')}.value") == ""
    # The second turn has the first in its prompt, and finds its pages.
    long = "And the house? " * 60
    shown = say(chromium, long)
    chat += [{"role": "assistant", "content": expected}, {"role": "user", "content": long}]
    expected, usage = api_text(server, chat, **body)
    assert shown[3]["text"] == expected and f"prompt of {usage['prompt_tokens']} tokens" in shown[3]["note"]
    say(chromium, "Go on")
    cached = re.search(r"tokens, (\d+) of them cached", chromium.evaluate(MESSAGES)[5]["note"])[1]
    assert int(cached) >= 128 and int(cached) % 128 == 0
    assert foreign(chromium, server) == [] and chromium.complaints == []
    # A new chat has none of it.
    chromium.evaluate(f"{element('new')}.click()")
    assert chromium.evaluate(MESSAGES) == []
    assert say(chromium, "Hello")[1]["text"] == api_text(server, chat[:2], **body)[0]


def test_a_seed_beyond_doubles_is_sent_as_it_is(chromium, server):
    chromium.open(url_of(server), ready=READY)
    seed = 2**53 + 1
    settings(chromium, system="", temperature="1.5", max_completion_tokens="12", seed=f"00{seed}")
    shown = say(chromium, "Hello")[1]["text"]
    chat = [{"role": "user", "content": "Hello"}]
    body = dict(temperature=1.5, max_completion_tokens=12)
    assert shown == api_text(server, chat, seed=seed, **body)[0]
    assert shown != api_text(server, chat, seed=seed - 1, **body)[0]


def test_shift_enter_begins_a_line_and_nothing_is_sent_without_text(chromium, server):
    chromium.open(url_of(server), ready=READY)
    settings(chromium, temperature="0", max_completion_tokens="4")
    enter(chromium)
    type_text(chromium, "  ")
    enter(chromium)
    assert chromium.evaluate(MESSAGES) == []
    chromium.evaluate(f"{element('input')}.value = ''")
    type_text(chromium, "one")
    enter(chromium, shift=True)
    type_text(chromium, "two")
    assert chromium.evaluate(f"{element('input')}.value") == "one\ntwo"
    shown = say(chromium, "")
    assert shown[0]["text"] == "one\ntwo"
    assert shown[1]["text"] == api_text(server, [{"role": "user", "content": "one\ntwo"}],
                                        temperature=0, max_completion_tokens=4)[0]  # fmt: skip


def test_stop_keeps_what_has_come_and_the_chat_goes_on(chromium, server):
    chromium.open(url_of(server), ready=READY)
    most = CONTEXT - 100
    settings(chromium, temperature="0", max_completion_tokens=most)
    chromium.evaluate(f"""new MutationObserver((_, observer) => {{
      if (document.querySelector('.assistant .text').textContent.length < 3) return;
      observer.disconnect();
      {element("stop")}.click();
    }}).observe({element("log")}, {{characterData: true, subtree: true}})""")
    shown = say(chromium, "Hello")
    chat = [{"role": "user", "content": "Hello"}]
    whole = api_text(server, chat, temperature=0, max_completion_tokens=most)[0]
    assert shown[1]["note"] == "Stopped."
    assert 3 <= len(shown[1]["text"]) < len(whole) and whole.startswith(shown[1]["text"])
    settings(chromium, max_completion_tokens=8)
    again = say(chromium, "More")[3]["text"]
    chat += [{"role": "assistant", "content": shown[1]["text"]}, {"role": "user", "content": "More"}]
    assert again == api_text(server, chat, temperature=0, max_completion_tokens=8)[0]


def test_a_refusal_is_shown_and_the_message_can_be_sent_again(chromium, server):
    chromium.open(url_of(server), ready=READY)
    settings(chromium, temperature="0", max_completion_tokens=CONTEXT * 2)
    shown = say(chromium, "Hello")
    assert len(shown) == 1 and f"the context is {CONTEXT} tokens" in shown[0]["note"]
    assert chromium.evaluate(f"{element('input')}.value") == "Hello"
    settings(chromium, max_completion_tokens=4)
    shown = say(chromium, "")
    assert [m["role"] for m in shown] == ["assistant", "user", "assistant"]
    assert shown[2]["text"] == api_text(server, [{"role": "user", "content": "Hello"}],
                                        temperature=0, max_completion_tokens=4)[0]  # fmt: skip


def test_the_key_is_asked_for_and_kept_in_memory_only(chromium, start_server, serve_folder):
    locked = start_server(serve_folder, "--threads", "1", environment={"OSP_API_KEY": "secret-key"})
    lock = element("lock")
    chromium.open(url_of(locked), ready=f"!{lock}.hidden")
    settings(chromium, max_completion_tokens="4")
    # A message that is sent without the key waits for it.
    assert say(chromium, "Hello")[0]["note"] == "The server wants an API key."
    type_text(chromium, "wrong", "key")
    enter(chromium)
    chromium.wait(f"{element('lock-error')}.textContent.includes('does not know this key')")
    type_text(chromium, "secret-key", "key")
    enter(chromium)
    chromium.wait(f"{lock}.hidden && {IDLE} && {element('log')}.textContent.includes('tokens')")
    assert chromium.evaluate(MESSAGES)[-1]["role"] == "assistant"
    assert chromium.evaluate(f"{element('key')}.value") == ""
    kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, history.state])"
    assert "secret-key" not in chromium.evaluate(kept)
    assert "secret-key" not in chromium.evaluate("document.documentElement.outerHTML")
    assert foreign(chromium, locked) == []
    assert all("401" in complaint for complaint in chromium.complaints)
    chromium.open(url_of(locked), ready=f"!{lock}.hidden")
    assert locked.stop() == 0


class StandIn:
    """Serves the page of `server` and answers chats with `steps`: texts to write, and events to wait for."""

    def __init__(self, server):
        connection = server.connect()
        connection.request("GET", "/")
        response = connection.getresponse()
        self.page, self.policy = response.read(), response.getheader("Content-Security-Policy")
        connection.close()
        self.steps, self.bodies, self.left = [], [], threading.Event()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, kind, data, fields=()):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                for name, value in fields:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                if self.path == "/":
                    policy = [("Content-Security-Policy", stand_in.policy)]
                    self.answer("text/html; charset=utf-8", stand_in.page, policy)
                else:
                    models = {"data": [{"id": "<b>stand-in</b>", "max_model_len": 5}]}
                    self.answer("application/json", json.dumps(models).encode())

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stand_in.bodies.append(json.loads(body))
                self.answer("text/event-stream", b"")
                try:
                    for step in stand_in.steps:
                        if isinstance(step, threading.Event):
                            assert step.wait(30)
                        else:
                            self.wfile.write(step)
                    while stand_in.steps and stand_in.steps[-1] == b"":
                        self.wfile.write(b": silence\n\n")
                        time.sleep(0.02)
                except OSError:
                    stand_in.left.set()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def event(text=None, reason=None, **more):
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return b"data: " + json.dumps({"choices": choices, **more}, ensure_ascii=False).encode() + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 3}}
LAST = event(reason="stop") + b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
HOSTILE = [
    "<img src=x onerror=\"document.title='hit'\">",
    "<script>document.title='hit'</script>",
    "<svg/onload=document.title='hit'>",
    "</div></main><iframe src=javascript:top.document.title='hit'>",
    "<a href='https://evil.example/'>&lt;&#60;</a>",
]


def test_hostile_text_is_shown_as_text(chromium, server):
    with StandIn(server) as stand_in:
        chromium.open(url_of(stand_in), ready=READY)
        for text in HOSTILE:
            # In pieces that are cut within the tags, and as a message of the user.
            stand_in.steps = [*(event(text[i : i + 3]) for i in range(0, len(text), 3)), LAST]
            user, answer = say(chromium, text)[-2:]
            assert user["text"] == answer["text"] == text
            assert user["elements"] == answer["elements"] == 0
            assert answer["note"] == "1 token · prompt of 7 tokens, 3 of them cached"
        assert stand_in.bodies[-1]["messages"][-1] == {"role": "user", "content": HOSTILE[-1]}
        assert chromium.evaluate(f"{element('model')}.textContent") == "<b>stand-in</b>"
        assert chromium.evaluate("document.title") == "<b>stand-in</b> – osp serve"
        # As the message of an error inside the stream.
        error = {"error": {"message": HOSTILE[0]}}
        stand_in.steps = [event("so far"), b"data: " + json.dumps(error).encode() + b"\n\n"]
        answer = say(chromium, "x")[-1]
        assert answer["text"] == "so far" and answer["note"] == HOSTILE[0]
        assert chromium.evaluate("document.querySelectorAll('main img, main script, iframe, a').length") == 0
        assert foreign(chromium, stand_in) == [] and chromium.complaints == []


def test_the_policy_stops_what_the_page_does_not_do(chromium, server):
    chromium.open(url_of(server), ready=READY)
    chromium.evaluate("""document.body.insertAdjacentHTML('beforeend',
      '<img src=x onerror="document.title=1"><b style="color:red" onclick="document.title=1">x</b>')""")
    outside = "fetch('https://evil.example/').then(() => 'sent', () => 'refused')"
    assert chromium.evaluate(outside) == "refused"
    assert chromium.evaluate("document.title") == "tiny – osp serve"
    assert len(chromium.complaints) >= 2


def test_text_is_shown_as_it_comes_and_stop_leaves(chromium, server):
    with StandIn(server) as stand_in:
        chromium.open(url_of(stand_in), ready=READY)
        # A character in two pieces of the connection, and an event in two.
        go_on = threading.Event()
        data = event("é 😀") + event(" end") + LAST
        cut = data.index("😀".encode()) + 2
        stand_in.steps = [event("first"), b": silence\n\n", go_on, data[:cut], data[cut:]]
        type_text(chromium, "x")
        enter(chromium)
        chromium.wait("document.querySelector('.busy .text')?.textContent === 'first'")
        assert chromium.evaluate(f"{element('send')}.hidden && !{element('stop')}.hidden")
        enter(chromium)  # while an answer runs, nothing is sent
        go_on.set()
        chromium.wait(IDLE)
        assert chromium.evaluate(MESSAGES)[1]["text"] == "firsté 😀 end" and len(stand_in.bodies) == 1
        # Stop by button and by Escape: the connection ends.
        for by_key in (False, True):
            stand_in.left.clear()
            stand_in.steps = [event("begin"), b""]
            type_text(chromium, "y")
            enter(chromium)
            chromium.wait("document.querySelector('.busy .text')?.textContent === 'begin'")
            if by_key:
                press(chromium, "Escape", 27)
            else:
                chromium.evaluate(f"{element('stop')}.click()")
            assert stand_in.left.wait(20)
            chromium.wait(IDLE)
            assert chromium.evaluate(MESSAGES)[-1]["note"] == "Stopped."
        # A server that breaks off is named.
        stand_in.steps = [event("half")]
        answer = say(chromium, "z")[-1]
        assert answer["text"] == "half" and answer["note"] == "The server ended the answer early."


@pytest.mark.parametrize("width", [1200, browser.PHONE, 320])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(chromium, server, width, dark):
    chromium.open(url_of(server), ready=READY, width=width, height=700, dark=dark)
    settings(chromium, temperature="0", max_completion_tokens="40")
    say(chromium, "Hello " * 40 + "x" * 300)
    assert chromium.evaluate(f"(({{scrollHeight, scrollTop, clientHeight}}) =>"
                             f" scrollHeight - scrollTop - clientHeight)({element('log')})") < 2  # fmt: skip
    chromium.evaluate(f"{element('settings')}.open = true; {element('lock')}.hidden = false")
    found = chromium.evaluate("""(() => {
      const style = (e) => getComputedStyle(e);
      const hex = (paint) => '#' + paint.match(/\\d+/g).slice(0, 3)
        .map((c) => Number(c).toString(16).padStart(2, '0')).join('');
      const behind = (e) => {
        while (e && style(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;
        return hex(style(e || document.body).backgroundColor);
      };
      const all = [...document.querySelectorAll('body *')]
        .filter((e) => e.getClientRects().length && !e.closest('.unseen'));
      return {
        wide: document.documentElement.scrollWidth - innerWidth,
        high: document.documentElement.scrollHeight - innerHeight,
        log: document.getElementById('log').clientHeight,
        pairs: all.map((e) => [e.tagName + ' ' + e.id, hex(style(e).color), behind(e)]),
        fonts: all.map((e) => parseFloat(style(e).fontSize)),
        buttons: all.filter((e) => e.tagName === 'BUTTON').map((e) => e.getBoundingClientRect().height),
        unnamed: all.filter((e) => /INPUT|TEXTAREA/.test(e.tagName) && !e.labels.length).map((e) => e.id),
      };
    })()""")
    assert found["wide"] <= 0 and found["high"] <= 0, found
    assert found["log"] >= 60
    assert min(found["fonts"]) >= 14 and min(found["buttons"]) >= 44
    assert found["unnamed"] == []
    for name, ink, paper in found["pairs"]:
        assert colour_sight.contrast(ink, paper) >= 4.5, (name, ink, paper)
