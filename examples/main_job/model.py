"""The model that the demo's agent talks to: an OpenAI-compatible endpoint on the host.

Without a key it is a scripted model: it reads what the agent saw last and decides the next command from it.
With OPENAI_API_KEY it relays to OPENAI_BASE_URL and adds the key here, so that the key never enters the devbox.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import httpx

Messages = list[dict[str, Any]]
Answer = dict[str, Any]
IP_FREEBIND = 15  # include/uapi/linux/in.h: bind before the address exists
MAX_BODY = 16 * 1024 * 1024
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


@dataclass(frozen=True, slots=True)
class Step:
    """What the scripted model says and runs, and what must be in the output before it goes on."""

    thought: str
    command: str
    expect: str = ""


# Each step's `expect` is checked against what the command really printed: the script goes on only on evidence.
STEPS = (
    Step(
        "I will look at the project and see what the failing test says.",
        "git log --oneline | head -3; ls; python3 -m unittest tests.test_more.WindowedTests 2>&1 | tail -25",
        "FAILED (failures=",
    ),
    Step(
        "windowed() gives an extra window of fill values when the step is larger than the window. I will read it.",
        "grep -n '^def windowed' more_itertools/more.py && "
        "sed -n '/^def windowed(/,/^def substrings(/p' more_itertools/more.py | grep -v '^def substrings' | tail -32",
        "padding = (fillvalue,) * (step - 1)",
    ),
    Step(
        "The padding is always step - 1 long. When the step is not smaller than the window, it may only complete "
        "a window, so n - 1 fill values are enough. I will reproduce it on its own first.",
        "cat > /tmp/reproduce.py <<'END'\n"
        "from more_itertools import windowed\n"
        "for n, step in [(2, 3), (3, 7), (3, 3), (3, 1)]:\n"
        "    windows = list(windowed([1, 2, 3], n, step=step))\n"
        "    print(n, step, windows, 'WRONG' if any(not any(w) for w in windows) else 'fine')\n"
        "END\nPYTHONPATH=. python3 /tmp/reproduce.py",
        "WRONG",
    ),
    Step(
        "Reproduced. Now the repair.",
        "python3 - <<'END'\n"
        "import pathlib\n"
        "path = pathlib.Path('more_itertools/more.py')\n"
        "text = path.read_text()\n"
        "old = 'padding = (fillvalue,) * (step - 1)'\n"
        "new = 'padding = (fillvalue,) * (n - 1 if step >= n else step - 1)'\n"
        "assert text.count(old) == 1\n"
        "path.write_text(text.replace(old, new))\n"
        "END\ngit diff --stat && PYTHONPATH=. python3 /tmp/reproduce.py",
        "1 file changed",
    ),
    Step(
        "The small case is right. I will run the library's whole test suite.",
        "python3 -m unittest tests.test_more tests.test_recipes 2>&1 | tail -5",
        "OK",
    ),
    Step("All tests pass. I am done.", SUBMIT),
)


def _last_output(messages: Messages) -> str:
    """What the agent's last command printed, as the agent reported it."""
    content = messages[-1].get("content", "")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def scripted(messages: Messages) -> Answer:
    """Choose the next step from the conversation: shape of an OpenAI chat completion message.

    Raises ValueError when a command did not print what the step expects: the demo must then fail, not pretend.
    """
    done = sum(message.get("role") == "assistant" for message in messages)
    if done >= len(STEPS):
        raise ValueError(f"cannot continue the script: it has {len(STEPS)} steps")
    if done and STEPS[done - 1].expect not in _last_output(messages):
        raise ValueError(f"cannot continue after step {done}: the output lacks {STEPS[done - 1].expect!r}")
    step = STEPS[done]
    call = {"name": "bash", "arguments": json.dumps({"command": step.command})}
    return {
        "role": "assistant",
        "content": step.thought,
        "tool_calls": [{"id": f"call_{done}", "type": "function", "function": call}],
    }


def _completion(message: Answer, request: dict[str, Any]) -> Answer:
    size = len(json.dumps(request.get("messages", []))) // 4
    usage = {"prompt_tokens": size, "completion_tokens": 50, "total_tokens": size + 50}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model", "scripted"),
        "choices": [choice],
        "usage": usage,
    }


@dataclass
class Model(AbstractContextManager["Model"]):
    """Serves the model on one TCP port until the block ends. `calls` counts the requests that were answered."""

    address: str
    port: int
    calls: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the agent must ask for; litellm reads the part before the slash as the protocol."""
        return f"openai/{os.environ.get('CORRAL_DEMO_MODEL', 'gpt-5') if self.is_real else 'scripted'}"

    @property
    def is_real(self) -> bool:
        """Whether a real model answers."""
        return bool(os.environ.get("OPENAI_API_KEY"))

    def answer(self, request: dict[str, Any]) -> Answer:
        """Answer one chat completion request. Raises ValueError or httpx.HTTPError; both reach the agent as 401."""
        if self.is_real:
            return self._relay(request)
        return _completion(scripted(request["messages"]), request)

    def _relay(self, request: dict[str, Any]) -> Answer:
        base = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
        request["model"] = self.name.removeprefix("openai/")
        headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
        response = httpx.post(f"{base}/chat/completions", json=request, headers=headers, timeout=300)
        response.raise_for_status()
        body: Answer = response.json()
        return body

    def __enter__(self) -> Model:
        self._server = _Server((self.address, self.port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        super().server_bind()


def _handler(model: Model) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("content-length", 0))
            if not 0 < size <= MAX_BODY:
                return self._send(413, {"error": {"message": f"cannot read the request: {size} bytes"}})
            try:
                request = json.loads(self.rfile.read(size))
                body = model.answer(request)
            except (ValueError, KeyError, httpx.HTTPError) as error:
                model.failures.append(str(error))
                # The agent repeats a request for minutes after most errors; 401 ends it at once.
                return self._send(401, {"error": {"message": str(error), "type": "authentication_error"}})
            model.calls += 1
            return self._send(200, body)

        def _send(self, status: int, body: Answer) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Keep the demo's screen for what the agent does."""

    return Handler
