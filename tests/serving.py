"""Services on 127.0.0.1: real servers as processes, and one in this process, of documented formats and of faults."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from worlds import pool

from hf_mia.core import Floats, Pool
from hf_mia.recipes.vocabulary import word_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def game(users: int = 20, each: int = 3, seed: int = 5) -> tuple[Pool, Floats]:
    """Users who write alike, and which of them, every second one, a model is to know."""
    found = pool(users, each, seed)
    return found, np.arange(users) % 2.0


def memoriser(folder: Path, found: Pool, member: Floats, steps: int = 150) -> Path:
    """A Llama of 30,000 parameters that knows its members' texts by heart, saved as a Hub repository is."""
    texts = list(found.records["text"])
    tokenizer = word_tokenizer(texts, 300)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, bos_token_id=0, eos_token_id=0, **sizes)
    )
    inside = [text for text, unit in zip(texts, found.unit, strict=True) if member[unit]]
    ids = [[0, *tokenizer(text)["input_ids"], 0] for text in inside]
    width = max(map(len, ids))
    batch = torch.tensor([[*row, *[-100] * (width - len(row))] for row in ids])
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(steps):
        module(input_ids=batch.clamp(min=0), labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.generation_config = GenerationConfig(do_sample=True, bos_token_id=0, eos_token_id=0)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def process(command: list[str], port: int, health: str, log: Path) -> Iterator[str]:
    """A server process, from when it answers until it is ended; gives its address."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        for _ in range(600):
            try:
                urlopen(f"http://127.0.0.1:{port}{health}", timeout=5).close()
                break
            except (URLError, OSError):
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
        else:
            raise AssertionError(f"not within two minutes: {log.read_text()}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--port", str(port)]
    with process([*command, "--host", "127.0.0.1", "--device", "cpu"], port, "/health", folder / "server.log") as url:
        yield url


@contextmanager
def mlx_serve(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--port", str(port)]
    command += ["--prompt-cache-size", "0"]  # it dies of a prompt that it has seen before (mlx-lm 0.32.2)
    with process(command, port, "/health", folder / "server.log") as url:
        yield url


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(eq=False)
class Request:
    """What a server was sent, and when."""

    path: str
    body: dict[str, object]
    authorization: str | None
    at: float


@dataclass(eq=False)
class Server:
    """A server in this process: `answer` makes of each request a reply; `faults` come first, one a request."""

    answer: Callable[[Request], object]
    faults: list[Callable[[BaseHTTPRequestHandler, Request], None]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Request(self.path, body, self.headers.get("Authorization"), time.monotonic())
            with lock:
                server.requests.append(request)
                fault = server.faults.pop(0) if server.faults else None
            (fault or plainly)(self, request)

        def log_message(self, *_: object) -> None: ...

    def plainly(handler: BaseHTTPRequestHandler, request: Request) -> None:
        say(handler, 200, json.dumps(server.answer(request)))

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{running.server_address[1]}/v1"
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, text: str, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(text.encode())),
        **headers,
    }.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(text.encode())


Fault = Callable[[BaseHTTPRequestHandler, Request], None]


def status(code: int, text: str = '{"error": "not now"}', **headers: str) -> Fault:
    return lambda handler, request: say(handler, code, text, **headers)


def text(body: str) -> Fault:
    return lambda handler, request: say(handler, 200, body)


def hangs(handler: BaseHTTPRequestHandler, request: Request) -> None:
    time.sleep(1.0)


def half(handler: BaseHTTPRequestHandler, request: Request) -> None:
    """Half of an answer, and the line is cut."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"text": "w0')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, eq=False)
class Formats:
    """OpenAI's completions with `echo` and `logprobs`, chat, and text-generation-inference, over a local model.

    Prompts open with the end-of-text token, as `TextCollate` has it, and that token is listed, as vLLM lists BOS.
    """

    module: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, request: Request) -> object:
        if request.path.endswith("/chat/completions"):
            return self.chat(request.body)
        return self.completion(request.body) if request.path.endswith("/completions") else self.generation(request.body)

    def known(self, prompt: str) -> tuple[list[int], list[str], torch.Tensor]:
        encoded = self.tokenizer(prompt, return_offsets_mapping=True)
        ends = [0, *(end for _, end in encoded["offset_mapping"])]
        pieces = ["", *(prompt[a:b] for a, b in pairwise(ends))]
        ids = [self.tokenizer.eos_token_id, *encoded["input_ids"]]
        with torch.inference_mode():
            logits = self.module(input_ids=torch.tensor([ids])).logits[0]
        return ids, pieces, logits.double().log_softmax(1)

    def likeliest(self, row: torch.Tensor, k: int) -> dict[str, float]:
        top = row.topk(k)
        return dict(zip(self.tokenizer.convert_ids_to_tokens(top.indices.tolist()), top.values.tolist(), strict=True))

    def written(self, prompt: str, tokens: int, temperature: float, seed: int) -> tuple[str, list[int]]:
        ids, generator = self.known(prompt)[0], torch.Generator().manual_seed(seed)
        start = len(ids)
        while len(ids) < start + tokens and (len(ids) == start or ids[-1] != self.tokenizer.eos_token_id):
            with torch.inference_mode():
                row = self.module(input_ids=torch.tensor([ids])).logits[0, -1].double()
            drawn = torch.multinomial((row / (temperature or 1.0)).softmax(0), 1, generator=generator)
            ids.append(int(drawn if temperature else row.argmax()))
        return self.tokenizer.decode(ids[start:], skip_special_tokens=True), ids[start:]

    def completion(self, body: dict[str, object]) -> object:
        prompt, k = str(body["prompt"]), int(body.get("logprobs", 0))  # type: ignore[call-overload]
        ids, pieces, logp = self.known(prompt)
        said, new = self.written(prompt, body["max_tokens"], body["temperature"], body.get("seed", 0))  # type: ignore[arg-type]
        choice: dict[str, object] = {"index": 0, "text": prompt + said if body.get("echo") else said}
        if k:
            rows = [(pieces[i], None if i == 0 else float(logp[i - 1, ids[i]]), logp[i - 1]) for i in range(len(ids))]
            rows = rows if body.get("echo") else []
            rows.append((" " + said, float(logp[-1, new[0]]), logp[-1]))
            choice["logprobs"] = {
                "tokens": [piece for piece, _, _ in rows],
                "token_logprobs": [value for _, value, _ in rows],
                "top_logprobs": [None if value is None else self.likeliest(row, k) for _, value, row in rows],
                "text_offset": np.cumsum([0, *(len(piece) for piece, _, _ in rows)])[:-1].tolist(),
            }
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": len(new)}}

    def chat(self, body: dict[str, object]) -> object:
        prompt = str(body["messages"][0]["content"]).split("\n\n")[-1]  # type: ignore[index]
        said, new = self.written(prompt, body["max_tokens"], body["temperature"], body.get("seed", 0))  # type: ignore[arg-type]
        choice: dict[str, object] = {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": said},
        }
        if body.get("logprobs"):
            top = self.likeliest(self.known(prompt)[2][-1], int(body["top_logprobs"]))  # type: ignore[call-overload]
            entries = [{"token": token, "logprob": value} for token, value in top.items()]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
        counts = {"prompt_tokens": 1, "completion_tokens": len(new), "total_tokens": 1 + len(new)}
        return {"id": "1", "created": 1, "model": "m", "choices": [choice], "usage": counts}

    def generation(self, body: dict[str, object]) -> object:
        prompt, asked = str(body["inputs"]), body["parameters"]
        assert isinstance(asked, dict)
        ids, pieces, logp = self.known(prompt)
        said, new = self.written(prompt, asked["max_new_tokens"], asked.get("temperature", 0.0), asked.get("seed") or 0)
        told = [
            {"id": one, "text": pieces[i], "logprob": None if i == 0 else float(logp[i - 1, one])}
            for i, one in enumerate(ids)
        ]
        top = self.likeliest(logp[-1], asked.get("top_n_tokens") or 1)
        details = {
            "finish_reason": "length",
            "generated_tokens": len(new),
            "prefill": told if asked.get("decoder_input_details") else [],
            "tokens": [],
            "top_tokens": [[{"id": 0, "text": t, "logprob": v, "special": False} for t, v in top.items()]],
        }
        return [{"generated_text": said, "details": details}]
