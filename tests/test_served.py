"""Text before a served model: a real HTTP server over a small real model, against asking the model
itself for one mask at a time."""

from __future__ import annotations

import logging
import pickle
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `remote`")
pytest.importorskip("httpx", reason="needs the extra `remote`")

import tiny_models as tiny
from served_model import KEY, NAME, ModelServer, every

from spex_core import masks as bits
from spex_core.errors import EvaluationError, EvaluationInterrupted
from spex_core.planner import lexicographic
from spex_core.proxyspex import proxyspex
from spex_core.store import Store
from spex_core.values import calls
from spex_core.values.calls import Caller, ServerError
from spex_core.values.causal_scorers import (
    AnswerLogprob,
    ClassLogit,
    LabelLogprobs,
    LogitDifference,
)
from spex_core.values.language import CausalText
from spex_core.values.served import ServedText
from spex_core.values.server import CostCapReached, Server

PREFIX, SUFFIX = "<s>Question: Was it cold?\n", "\nAnswer:"
DIFFERENCE = LogitDifference(" yes", " no")
LABELS = LabelLogprobs((" yes", " no", " Question"))
ANSWER = AnswerLogprob(" maybe yes no")
FAULTS = ("429", "500", "timeout", "truncated", "slow", "halved")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny.llama()


@pytest.fixture
def serve(llama: Any, tokenizer: Any) -> Iterator[Callable[..., ModelServer]]:
    running = []

    def start(**options: Any) -> ModelServer:
        running.append(ModelServer(llama, tokenizer, **options).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def make(tokenizer: Any) -> Callable[..., ServedText]:
    """f of a server: options of Server and ServedText mixed."""

    def build(there: ModelServer | str, scorer: Any = DIFFERENCE, **options: Any) -> ServedText:
        names = ("prefix", "suffix", "masking", "mask_token", "units", "identity", "truncate")
        names += ("mark_bounds",)
        text = {name: options.pop(name) for name in names if name in options}
        url = there if isinstance(there, str) else there.url
        known = {"pause": 0.01, "timeout": 5.0, "top": tiny.VOCABULARY}
        server = Server(url, **({"model": NAME} | known | options))
        around = {"prefix": PREFIX, "suffix": SUFFIX} | text
        return ServedText(server, tokenizer, tiny.TEXT, scorer, **around)

    return build


def some_masks(n: int, rows: int = 24, seed: int = 5) -> np.ndarray:
    """With the empty, the full one, and a repeated one."""
    masks = np.random.default_rng(seed).random((rows, n)) < 0.5
    masks[:1], masks[1:2], masks[3:4] = False, True, masks[2:3]
    return masks


def directly(there: ModelServer, f: ServedText, masks: np.ndarray, scorer: Any) -> np.ndarray:
    """One plain call of the model for each mask."""
    tokenizer, found = there.tokenizer, []
    for mask in masks:
        keep = np.append(mask, True)[f.layout.owner]
        ids = f.layout.ids[keep].tolist()
        if isinstance(scorer, AnswerLogprob):
            answer = tokenizer(scorer.text)["input_ids"]
            rows = there.logprobs(ids + answer)
            each = [rows[len(ids) - 1 + i, token] for i, token in enumerate(answer)]
            found.append(float(np.mean(each) if scorer.mean else np.sum(each)))
        else:
            last = there.logprobs(ids)[-1]
            labels = (scorer.yes, scorer.no) if scorer is DIFFERENCE else scorer.labels
            each = [float(last[tokenizer(label)["input_ids"][0]]) for label in labels]
            found.append(each[0] - each[1] if scorer is DIFFERENCE else each)
    return np.array(found, np.float32)


# ---- Against asking the model itself -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "api", "scorer", "error"),
    [
        ("openai", "completions", DIFFERENCE, 0),
        ("openai", "completions", LABELS, 0),
        ("openai", "completions", ANSWER, 0),
        ("openai", "completions", AnswerLogprob(" maybe yes", mean=True), 1e-6),
        ("llama.cpp", "completions", LABELS, 0),
        ("vllm", "vllm", DIFFERENCE, 0),
        ("vllm", "vllm", LABELS, 0),
        ("vllm", "vllm", ANSWER, 0),
        ("vllm", "vllm-scoring", DIFFERENCE, 1e-6),
        ("vllm", "vllm-scoring", AnswerLogprob(" yes"), 1e-6),
        ("sglang", "sglang", DIFFERENCE, 0),
        ("sglang", "sglang", ANSWER, 0),
        ("sglang", "sglang-score", LABELS, 1e-6),
    ],
)
def test_values_are_those_of_the_model(
    kind: str, api: str, scorer: Any, error: float, serve: Callable, make: Callable, llama: Any
) -> None:
    there = serve(kind=kind)
    f = make(there, scorer, api=api)
    masks = some_masks(f.n)
    found = f(masks)
    truth = directly(there, f, masks, scorer)
    assert truth.reshape(len(truth), -1).std(0).min() > 0.01
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, atol=error, rtol=0)
    assert len(f.censored) == 0

    ours = CausalText(llama, there.tokenizer, tiny.TEXT, scorer, prefix=PREFIX, suffix=SUFFIX)
    np.testing.assert_allclose(found, ours(masks), atol=2e-5, rtol=0)


def test_replaced_tokens_and_sentences(serve: Callable, make: Callable, llama: Any) -> None:
    there = serve()
    options = {"masking": "replace", "mask_token": "<unk>", "units": "sentences"}
    f = make(there, **options)
    ours = CausalText(
        *(llama, there.tokenizer, tiny.TEXT, DIFFERENCE), prefix=PREFIX, suffix=SUFFIX, **options
    )
    masks = some_masks(f.n, 8)
    np.testing.assert_allclose(f(masks), ours(masks), atol=2e-5, rtol=0)
    assert {len(prompt) for prompt in there.asked} == {f.layout.tokens}


@pytest.mark.parametrize("fault", FAULTS)
def test_two_percent_of_requests_fail(fault: str, serve: Callable, make: Callable) -> None:
    chance = np.random.default_rng(2).random(2000) < 0.02
    there = serve(fault=lambda number: fault if chance[number] else None)
    f = make(there, prompts=1, concurrency=8, timeout=0.8, prefix="<s>Q:", suffix="")
    masks = some_masks(f.n, 250)
    found = f(masks)
    assert there.counts[fault] >= 4
    np.testing.assert_array_equal(found, directly(there, f, masks, DIFFERENCE))


def test_a_reply_that_never_pauses_and_never_ends(serve: Callable, make: Callable) -> None:
    there = serve(fault=every("drip", 0))
    f = make(there, prompts=50, timeout=0.5)
    masks = some_masks(f.n, 4)
    start = time.monotonic()
    np.testing.assert_array_equal(f(masks), directly(there, f, masks, DIFFERENCE))
    assert there.counts["drip"] == 1
    assert there.posts >= 2
    assert time.monotonic() - start >= 0.5


def test_all_faults_at_once_in_a_whole_run(serve: Callable, make: Callable) -> None:
    draw = np.random.default_rng(2).random(2000)

    def fault(number: int) -> str | None:
        kind = int(draw[number] / 0.02)
        return FAULTS[kind] if kind < len(FAULTS) else None

    there, calm = serve(fault=fault), serve()
    options = {"prompts": 2, "concurrency": 6, "timeout": 0.8, "units": "words"}
    ex = proxyspex(make(there, **options), budget=200, seed=3)
    same = proxyspex(make(calm, **options), budget=200, seed=3)
    assert sum(there.counts[kind] > 0 for kind in FAULTS) >= 4
    assert ex.interactions("SV") == same.interactions("SV")


# ---- Order and number of requests ----------------------------------------------------------------


def test_masks_that_share_their_beginnings_are_sent_together(
    serve: Callable, make: Callable
) -> None:
    there = serve()
    f = make(there, prompts=3, concurrency=1)
    masks = some_masks(f.n, 20)
    f(masks)
    packed = bits.pack(masks)
    kept = masks[lexicographic(packed)]
    wanted = [f.layout.ids[np.append(mask, True)[f.layout.owner]].tolist() for mask in kept]
    distinct = [ids for i, ids in enumerate(wanted) if i == 0 or ids != wanted[i - 1]]
    assert there.asked == distinct
    assert there.posts == -(-len(distinct) // 3)


def test_no_more_than_so_many_requests_at_a_time(serve: Callable, make: Callable) -> None:
    there = serve(delay=0.03)
    make(there, prompts=1, concurrency=3)(some_masks(38, 20))
    assert there.most_at_once == 3


@pytest.mark.parametrize(("retry_after", "least"), [("0.5", 0.5), ("date", 0.5), ("nonsense", 0)])
def test_retry_after_holds_for_all(
    retry_after: str, least: float, serve: Callable, make: Callable
) -> None:
    if retry_after == "date":  # of whole seconds
        retry_after = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    there = serve(fault=every("429", 0), retry_after=retry_after)
    f = make(there, prompts=1, concurrency=1)
    start = time.monotonic()
    f(some_masks(f.n, 5))
    assert time.monotonic() - start >= least
    assert there.counts == {"429": 1, "none": 4}


def test_waits_grow_and_are_left_to_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def fail() -> None:
        raise calls._MayPass("status 503")

    caller = Caller(None, None, "KEY", "", 5, 1.0)
    monkeypatch.setattr(caller, "_sleep", lambda seconds: waits.append(seconds))
    with pytest.raises(ServerError, match="there failed 5 times, the last time with status 503"):
        caller._persist(fail, "there")
    waits = [wait for wait in waits if wait > 0]
    assert len(waits) == 4
    assert all(0.5 <= wait / 2**i <= 1 for i, wait in enumerate(waits))
    assert len({wait / 2**i for i, wait in enumerate(waits)}) == 4


def test_a_server_that_asks_for_an_hour_is_not_waited_for(serve: Callable, make: Callable) -> None:
    f = make(serve(fault=every("429", 0), retry_after="3600"))
    with pytest.raises(ServerError, match="asks to wait 3,600 s"):
        f(some_masks(f.n, 2))


# ---- What is spent -------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", ["most_requests", "most_tokens"])
def test_a_cap_is_not_exceeded_and_what_was_paid_for_is_kept(
    cap: str, serve: Callable, make: Callable
) -> None:
    there = serve()
    limit = 7 if cap == "most_requests" else 1500
    f = make(there, prompts=5, concurrency=3, **{cap: limit})
    with pytest.raises(EvaluationError, match=rf"{cap} = {limit:,} would be exceeded") as stop:
        proxyspex(f, budget=120, seed=0)
    assert isinstance(stop.value.__cause__, CostCapReached)
    known = stop.value.known
    spent = f.server.spent_requests if cap == "most_requests" else f.server.spent_tokens
    assert limit - 5 * 70 < spent <= limit
    assert there.posts == f.server.spent_requests
    assert f.server.spent_tokens == sum(map(len, there.asked)) + len(there.asked)
    assert len(known[0]) == len(there.asked) > 0
    np.testing.assert_array_equal(
        known[1].astype(np.float32), directly(there, f, known[0], DIFFERENCE)
    )
    ex = proxyspex(make(there), budget=120, seed=0, known=known)
    assert len(there.asked) == 120
    assert ex.report.used == 120 - len(known[0])


def test_attempts_that_fail_count_as_requests_and_those_refused_cost_no_tokens(
    serve: Callable, make: Callable
) -> None:
    there = serve(fault=lambda number: {0: "500", 1: "truncated"}.get(number))
    f = make(there, prompts=50, concurrency=1)
    f(some_masks(f.n, 4))
    once = sum(map(len, there.asked[:3])) + 3  # a repeated mask
    assert (f.server.spent_requests, f.server.spent_tokens) == (3, 2 * once)


# ---- Bounds --------------------------------------------------------------------------------------


def test_labels_outside_the_list_are_bounds_and_marked(serve: Callable, make: Callable) -> None:
    there, scorer = serve(), LabelLogprobs((" no", " Question"))
    f, exact = (make(there, scorer, top=top) for top in (150, tiny.VOCABULARY))
    masks = some_masks(f.n, 30)
    with pytest.warns(UserWarning, match="values are bounds.* 150 likeliest"):
        found = f(masks)
    truth = exact(masks)
    marked = {mask.tobytes() for mask in f.censored.numpy()}
    is_bound = np.array([mask.tobytes() in marked for mask in bits.pack(masks).numpy()])
    assert 0 < is_bound.sum() < len(masks)
    np.testing.assert_array_equal(found[~is_bound], truth[~is_bound])
    assert (found[is_bound] >= truth[is_bound]).all()
    assert (found[is_bound] > truth[is_bound]).any(1).all()
    assert found.min() > -20  # no number that stands for "none"

    marked_too = make(there, scorer, top=150, mark_bounds=True)
    with pytest.warns(UserWarning, match="values are bounds"):
        np.testing.assert_array_equal(marked_too(masks), np.column_stack([found, is_bound]))


def test_one_label_of_a_difference_that_is_not_listed(serve: Callable, make: Callable) -> None:
    f = make(serve(), top=150)
    masks = some_masks(f.n, 30)
    with pytest.warns(UserWarning, match="values are bounds"):
        found = f(masks)
    truth = make(serve())(masks)
    marked = {mask.tobytes() for mask in f.censored.numpy()}
    is_bound = np.array([mask.tobytes() in marked for mask in bits.pack(masks).numpy()])
    assert 0 < is_bound.sum() < len(masks) or np.unique(found[is_bound]).size > 1
    np.testing.assert_array_equal(found[~is_bound], truth[~is_bound])


def test_a_store_keeps_values_and_their_marks(
    serve: Callable, make: Callable, tmp_path: Any
) -> None:
    """A run stopped by its cap goes on, no mask is paid for twice, and bounds stay bounds."""
    there, options = serve(), {"budget": 60, "degree": 2, "seed": 1}
    capped = make(there, top=150, prompts=5, concurrency=2, most_requests=6)
    with (
        pytest.warns(UserWarning, match="values are bounds"),
        pytest.raises(EvaluationError, match="most_requests = 6 would be exceeded"),
    ):
        proxyspex(capped, **options, store=tmp_path)
    assert len(there.asked) == len(Store.open(tmp_path)) == 30
    before = {mask.tobytes() for mask in capped.censored.numpy()}
    assert before

    with pytest.warns(UserWarning, match="values are bounds"):
        found = proxyspex(make(there, top=150), **options, store=tmp_path)
    assert (found.report.cached, found.report.evaluated, len(there.asked)) == (30, 30, 60)
    plain = make(there, top=150)
    with pytest.warns(UserWarning, match="values are bounds"):
        want = proxyspex(plain, **options)
    assert found.interactions("Fourier") == want.interactions("Fourier")
    masks, values, marks = zip(*Store.open(tmp_path).blocks_marked(), strict=True)
    masks, marks = torch.cat(masks), np.concatenate(marks)
    bounds = {mask.tobytes() for mask in plain.censored.numpy()}
    assert before < bounds
    assert marks.tolist() == [mask.tobytes() in bounds for mask in masks.numpy()]
    assert found.report.censored == want.report.censored == marks.sum() < 60
    with pytest.warns(UserWarning, match="values are bounds"):
        again = make(there, top=150)(bits.unpack(masks, plain.n))
    np.testing.assert_array_equal(np.concatenate(values), again)


def test_an_old_vllm_is_told_from_one_that_takes_label_ids(serve: Callable, make: Callable) -> None:
    f = make(serve(kind="openai"), api="vllm")
    with pytest.raises(ServerError, match="logprob_token_ids are not there"):
        f(some_masks(f.n, 4))


# ---- The key -------------------------------------------------------------------------------------


def everything_said(error: BaseException) -> str:
    said = []
    while error is not None:
        said += [repr(error), str(error), *map(str, getattr(error, "__notes__", []))]
        error = error.__cause__ or error.__context__
    return " ".join(said)


def test_the_key_is_sent_and_nowhere_else(
    serve: Callable, make: Callable, monkeypatch: pytest.MonkeyPatch, caplog: Any, tmp_path: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    there = serve(key=KEY, fault=every("500", 1))
    f = make(there, prompts=4)
    with caplog.at_level(logging.DEBUG):
        ex = proxyspex(f, budget=20)
    ex.save(tmp_path / "run.npz")
    assert there.posts > 5
    shown = [
        repr(f),
        repr(f.server),
        f.fingerprint,
        caplog.text,
        str(ex.report),
        str(vars(f.server)),
    ]
    kept = [pickle.dumps(f.server), (tmp_path / "run.npz").read_bytes()]
    assert not any(KEY in text for text in shown)
    assert not any(KEY.encode() in data for data in kept)


@pytest.mark.parametrize("key", ["sk-wrong-271828", "sk-bad\x07bell", "sk-é"])
def test_a_refused_key_is_not_repeated(
    key: str, serve: Callable, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    there = serve(key=KEY)  # which repeats the key in its answer
    f = make(there)
    with pytest.raises(EvaluationError) as stop:
        proxyspex(f, budget=20)
    said = everything_said(stop.value)
    assert stop.value.__cause__.permanent
    assert "OPENAI_API_KEY" in said
    assert key not in said
    assert ("was refused" in said) == (key == "sk-wrong-271828")


def test_a_key_that_is_missing(
    serve: Callable, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    f = make(serve(key=KEY))
    with pytest.raises(ServerError, match="key in OPENAI_API_KEY is missing: it is not set"):
        f(some_masks(f.n, 2))
    f = make(serve(), key="MY_KEY")
    with pytest.raises(ServerError, match="key is missing: MY_KEY is not set"):
        f(some_masks(f.n, 2))


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "https://secret@host/v1"])
def test_a_url_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="must hold no user and no password") as stop:
        Server(url, "m")
    assert "secret" not in str(stop.value)


# ---- Bad input -----------------------------------------------------------------------------------


class Other(BaseHTTPRequestHandler):
    """Servers that are not of language models: one of pages, one of numbers."""

    page, kind = b"<html>It works!</html>", "text/html"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None: ...


class Numbers(Other):
    page, kind = b"[1, 2, 3]", "application/json"


@pytest.mark.parametrize("handler", [Other, Numbers])
def test_a_server_that_is_not_one(handler: Any, make: Callable) -> None:
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        f = make(f"http://127.0.0.1:{http.server_port}/v1")
        with pytest.raises(ServerError, match="is not of a server of language models"):
            f(some_masks(f.n, 2))
    finally:
        http.shutdown()
        http.server_close()


def test_no_server_at_all(make: Callable) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    f = make(f"http://127.0.0.1:{port}/v1", attempts=2)
    with pytest.raises(ServerError, match="failed 2 times, the last time with no connection"):
        f(some_masks(f.n, 2))


def test_an_unknown_model_names_those_there_are(serve: Callable, make: Callable) -> None:
    f = make(serve(), model="gpt-9")
    with pytest.raises(ServerError, match="no model 'gpt-9'; it has tiny, other"):
        f(some_masks(f.n, 2))


def test_a_server_that_echoes_no_log_probabilities(serve: Callable, make: Callable) -> None:
    f = make(serve(kind="no echo"), ANSWER)
    with pytest.raises(ServerError, match="the server does not echo them"):
        f(some_masks(f.n, 2))


def test_a_server_that_fails_for_good_leaves_what_was_paid_for(
    serve: Callable, make: Callable
) -> None:
    there = serve(fault=lambda number: "500" if number >= 6 else None)
    f = make(there, prompts=5, concurrency=2, attempts=2)
    with pytest.raises(EvaluationError, match=r"failed 2 times.*status 500: .*out of luck") as stop:
        proxyspex(f, budget=120)
    assert len(stop.value.known[0]) == 30
    assert not stop.value.__cause__.permanent  # asking later may help


def test_ctrl_c_keeps_what_is_under_way(
    serve: Callable, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spex_core.values import server

    there, calls_of_wait = serve(), []
    wait = server.wait

    def interrupted(*args: Any, **options: Any) -> Any:
        calls_of_wait.append(1)
        if len(calls_of_wait) == 3:
            raise KeyboardInterrupt
        return wait(*args, **options)

    monkeypatch.setattr(server, "wait", interrupted)
    with pytest.raises(EvaluationInterrupted) as stop:
        proxyspex(make(there, prompts=5, concurrency=3), budget=120)
    assert 10 <= len(stop.value.known[0]) == len(there.asked) <= 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"there": "localhost:8000"}, "url must be like"),
        ({"there": "http://host/v1?key=1"}, "have no query"),
        ({"model": " "}, "model must not be blank"),
        ({"api": "chat"}, "api must be one of"),
        ({"concurrency": 0}, "concurrency must be an integer >= 1"),
        ({"prompts": 0}, "prompts must be an integer >= 1"),
        ({"most_requests": -1}, "most_requests must be an integer >= 0"),
        ({"timeout": 0}, "timeout and pause must be positive"),
        ({"masking": "hide"}, r"masking must be one of \('remove', 'replace'\)"),
        ({"prefix": "", "suffix": ""}, "a token must be left"),
        ({"scorer": LogitDifference(" yes", " yes no")}, "a label must be one token"),
        ({"scorer": LabelLogprobs(())}, "labels must be one at least"),
        ({"scorer": LABELS, "api": "vllm-scoring"}, "one label or the difference of two"),
        ({"scorer": ANSWER, "api": "sglang-score"}, "must be asked for labels"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, make: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        make(**({"there": "http://localhost:1/v1"} | options))


@pytest.mark.parametrize("scorer", [ClassLogit(), "yes", print])
def test_a_scorer_that_no_server_has(scorer: Any, make: Callable) -> None:
    with pytest.raises(TypeError, match="scorer must be LogitDifference, LabelLogprobs or"):
        make("http://localhost:1/v1", scorer)


# ---- The rest ------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_all_that_values_depend_on(make: Callable) -> None:
    url = "http://localhost:1/v1"
    same = [make(url), make(url + "/", concurrency=2, prompts=3, attempts=1, most_tokens=5)]
    assert same[0].fingerprint == same[1].fingerprint
    others = [
        make("http://localhost:2/v1"),
        make(url, model="other"),
        make(url, api="vllm"),
        make(url, top=7),
        make(url, LogitDifference(" no", " yes")),
        make(url, LABELS),
        make(url, suffix=" A:"),
        make(url, masking="replace", mask_token="<unk>"),
        make(url, mark_bounds=True),
        make(url, identity="tiny of May"),
    ]
    prints = {f.fingerprint for f in (*same, *others)}
    assert len(prints) == 1 + len(others)
    moved = make("http://localhost:3/v1", identity="tiny of May")
    assert moved.fingerprint == others[-1].fingerprint


@pytest.mark.parametrize(
    ("url", "completions", "root"),
    [
        ("http://h:1", "http://h:1/v1/completions", "http://h:1/generate"),
        ("http://h:1/v1/", "http://h:1/v1/completions", "http://h:1/generate"),
        ("https://h/api/v1", "https://h/api/v1/completions", "https://h/api/generate"),
        ("https://h/v1/openai", "https://h/v1/openai/completions", "https://h/v1/openai/generate"),
    ],
)
def test_addresses(url: str, completions: str, root: str) -> None:
    server = Server(url, "m")
    assert (server.address("completions"), server.address("/generate")) == (completions, root)


def test_no_mask_is_no_request(serve: Callable, make: Callable) -> None:
    there = serve()
    f = make(there)
    assert f.evaluate(torch.empty(0, 1, dtype=torch.int64)).shape == (0,)
    assert there.posts == 0


def test_tokens_that_share_a_text_are_told_apart_by_id_only(
    serve: Callable, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, by_id = (
        make(serve(kind=kind), AnswerLogprob(" yes")) for kind in ("openai", "llama.cpp")
    )
    for f in (named, by_id):
        f.wanted = type(f.wanted)(f.wanted.labels, (None,), top=f.wanted.top)
    assert np.isfinite(by_id(some_masks(by_id.n, 2))).all()
    with pytest.raises(ServerError, match=r"which token .* shares with another"):
        named(some_masks(named.n, 2))


def test_a_missing_extra_says_what_to_install(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from spex_core.errors import MissingExtra

    f = make("http://localhost:1/v1")
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"pip install spex-core\[remote\]"):
        f(some_masks(f.n, 2))


def test_no_warning_without_bounds(serve: Callable, make: Callable) -> None:
    f = make(serve())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f(some_masks(f.n, 4))
