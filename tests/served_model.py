"""A small language model behind HTTP, as OpenAI, vLLM, SGLang and llama.cpp serve one, with faults
to order. It knows nothing of the package: one plain call of the model for each prompt."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

NAME, KEY = "tiny", "sk-test-3141592653589793"


class ModelServer:
    """Runs while it is a context.

    Args: fault: number of a POST request, from 0 -> what happens to it, or None: "429", "500",
          "timeout", "truncated", "slow", "halved" (no length is told, and the body ends half way),
          "drip" (a byte at a time).
    Attributes: asked: the prompts, in the order of arrival. counts: of faults. bodies: of requests.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        fault: Callable[[int], str | None] = lambda number: None,
        kind: str = "openai",
        key: str | None = None,
        delay: float = 0.0,
        retry_after: str | None = "0.01",
        stall: float = 1.0,
    ):
        self.model, self.tokenizer, self.fault, self.kind = model, tokenizer, fault, kind
        self.key, self.delay, self.retry_after, self.stall = key, delay, retry_after, stall
        self.names = [tokenizer.decode([i]) for i in range(model.config.vocab_size)]
        self.asked: list[list[int]] = []
        self.bodies: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.most_at_once = self.at_once = self.posts = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    # ---- The model -------------------------------------------------------------------------------

    def logprobs(self, prompt: list[int]) -> torch.Tensor:
        """(tokens, V): row i is of what comes after token i."""
        with self.lock, torch.no_grad():
            logits = self.model(input_ids=torch.tensor([prompt])).logits[0]
        return logits.double().log_softmax(-1)

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        prompts = body["prompt"]
        choices = [self.choice(i, prompt, body) for i, prompt in enumerate(prompts)]
        return {"choices": choices[::-1], "usage": {"total_tokens": sum(map(len, prompts))}}

    def choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        rows = self.logprobs(prompt)
        if body.get("echo"):
            own = [None] + [float(rows[i, token]) for i, token in enumerate(prompt[1:])]
            generated = [float(rows[-1].max())]
            own = generated if self.kind == "no echo" else own + generated
            return {"index": index, "logprobs": {"token_logprobs": own}}
        likeliest = rows[-1].topk(body["logprobs"]).indices.tolist()
        if self.kind == "llama.cpp":
            top = [{"id": i, "token": "?", "logprob": float(rows[-1, i])} for i in likeliest]
            return {"index": index, "logprobs": {"content": [{"top_logprobs": top}]}}
        if self.kind == "vllm":
            likeliest = sorted({likeliest[0], *body.get("logprob_token_ids", likeliest)})
        ids = body.get("return_tokens_as_token_ids") and self.kind == "vllm"
        named = {
            f"token_id:{i}" if ids else self.names[i]: number
            for i, number in zip(likeliest, rows[-1, likeliest].tolist(), strict=True)
        }
        return {"index": index, "logprobs": {"top_logprobs": [named]}}

    def generate(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        items = []
        for i, prompt in enumerate(body["input_ids"]):
            rows, about = self.logprobs(prompt), {}
            if body["sampling_params"]["max_new_tokens"]:
                labels = body["token_ids_logprob"][i]
                about["output_token_ids_logprobs"] = [
                    [[float(rows[-1, label]), label, None] for label in labels]
                ]
            first = body["logprob_start_len"][i]
            if first >= 0:
                values = [
                    None,
                    *(float(rows[j - 1, prompt[j]]) for j in range(first + 1, len(rows))),
                ]
                entries = [list(pair) for pair in zip(values, prompt[first:], strict=True)]
                about["input_token_logprobs"] = [[*entry, None] for entry in entries]
            items.append({"text": "", "meta_info": about})
        return items

    def score(self, body: dict[str, Any]) -> dict[str, Any]:
        scores = [self.label_scores(body, item) for item in body["items"]]
        return {"scores": scores, "object": "scoring"}

    def generative_scoring(self, body: dict[str, Any]) -> dict[str, Any]:
        scores = [self.label_scores(body, item)[0] for item in body["items"]]
        return {"data": [{"index": i, "score": score} for i, score in enumerate(scores)][::-1]}

    def label_scores(self, body: dict[str, Any], item: list[int]) -> list[float]:
        own = self.logprobs(body["query"] + item)[-1, body["label_token_ids"]]
        return (own.softmax(-1) if body["apply_softmax"] else own.exp()).tolist()

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        routes = {
            "/v1/completions": self.completions,
            "/generate": self.generate,
            "/v1/score": self.score,
            "/generative_scoring": self.generative_scoring,
        }
        prompts = body.get("prompt") or body.get("input_ids")
        with self.lock:
            self.bodies.append(body)
            self.asked += prompts or [body["query"] + item for item in body["items"]]
        return routes[path](body)

    # ---- HTTP ------------------------------------------------------------------------------------

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def send(self, status: int, body: Any, *, cut: bool = False, **headers: str) -> None:
                whole = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(whole)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(whole[: len(whole) // 2] if cut else whole)
                self.close_connection = cut

            def refuses(self) -> bool:
                given = self.headers.get("Authorization")
                if ours.key is None or given == f"Bearer {ours.key}":
                    return False
                self.send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
                return True

            def do_GET(self) -> None:
                if not self.refuses():
                    self.send(200, {"object": "list", "data": [{"id": NAME}, {"id": "other"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.refuses():
                    return
                with ours.lock:
                    number, ours.posts = ours.posts, ours.posts + 1
                    ours.at_once += 1
                    ours.most_at_once = max(ours.most_at_once, ours.at_once)
                try:
                    self.answer(body, ours.fault(number))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client has not waited
                finally:
                    with ours.lock:
                        ours.at_once -= 1

            def answer(self, body: Any, fault: str | None) -> None:
                ours.counts[fault or "none"] += 1
                if fault == "429":
                    after = {} if ours.retry_after is None else {"Retry_After": ours.retry_after}
                    return self.send(429, {"error": "too many requests"}, **after)
                if fault == "500":
                    return self.send(500, {"error": "out of luck"})
                if fault == "timeout":
                    time.sleep(ours.stall)
                time.sleep(ours.delay + (0.1 if fault == "slow" else 0.0))
                reply = ours.reply(self.path, body)
                if fault in ("halved", "drip"):
                    whole = json.dumps(reply).encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.end_headers()
                    self.close_connection = True
                    for byte in whole if fault == "drip" else ():
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.02)
                    self.wfile.write(whole[: len(whole) // 2])
                    return None
                return self.send(200, reply, cut=fault == "truncated")

        return Handler


def every(name: str, *numbers: int) -> Callable[[int], str | None]:
    """That fault at these requests."""
    return lambda number: name if number in numbers else None
