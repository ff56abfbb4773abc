"""Remote models against a real server on loopback: requests, faults, errors, keys, loops."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from email.utils import formatdate

import loopback
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback

from maieutic.chat_templates.encode import END
from maieutic.core import errors
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling
from maieutic.core.settings import LocalModel, Requests
from maieutic.models import load, remote, transport
from maieutic.models.address import Key, address, how_to_set, key
from maieutic.models.remote import RemoteModel

HELLO = [Message(role=Role.USER, content="How do I halve 7?")]
CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and no key of the person who runs the tests."""
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MAIEUTIC_API_KEY", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)


def model_of(server: Loopback, **options: object) -> RemoteModel:
    model = load(server.spec, requests=Requests(**{"timeout": 20.0, **options}))
    assert isinstance(model, RemoteModel)
    return model


def ask(
    model: RemoteModel, messages: list[Message] = HELLO, sampling: Sampling | None = None, **more: object
) -> Reply:
    return asyncio.run(model.reply(messages, sampling or Sampling(), **more))


def streamed(model: RemoteModel, **more: object) -> tuple[list[str], Reply]:
    async def gather() -> tuple[list[str], Reply]:
        whole: list[Reply] = []
        pieces = [piece async for piece in model.stream(HELLO, Sampling(), done=whole.append, **more)]
        return pieces, whole[0]

    return asyncio.run(gather())


# requests and replies


def test_a_request_is_the_official_client_s_field_by_field() -> None:
    from openai import OpenAI

    messages = [
        {"role": "system", "content": "Be short. \u00e9\u2028"},
        {"role": "user", "content": 'Say "7\\2".\n'},
    ]
    settings = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 33, "seed": 7}
    with Loopback("It is 3.5.", key=CANARY) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAIEUTIC_API_KEY", CANARY)
        with OpenAI(base_url=server.url, api_key=CANARY) as client:
            theirs = client.chat.completions.create(model="tiny", messages=messages, **settings)
        turns = [Message.model_validate(message) for message in messages]
        ours = ask(load(server.spec), turns, Sampling(**settings))
    official, own = server.chats
    assert own.path == official.path and own.body == official.body
    for header in ("Authorization", "Content-Type"):
        assert own.headers[header] == official.headers[header]
    assert ours.text == theirs.choices[0].message.content
    assert (ours.prompt_tokens, ours.completion_tokens) == (
        theirs.usage.prompt_tokens,
        theirs.usage.completion_tokens,
    )


def test_ollama_fetches_a_model_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback("Hi.", models=("other",)) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
        with pytest.raises(errors.UnknownModel, match="has no model 'tiny'"):
            asyncio.run(load("ollama/tiny").check())
        asyncio.run(load("ollama/tiny", requests=Requests(pull=True)).check())
        assert [seen.body for seen in server.requests if seen.path == "/api/pull"] == [
            {"model": "tiny", "stream": False}
        ]
        assert ask(load("ollama/tiny", requests=Requests(pull=True))).text == "Hi."
        with pytest.raises(errors.ModelError, match="manifest"):
            asyncio.run(load("ollama/no-such", requests=Requests(pull=True)).check())


def test_first_tokens_come_where_the_server_gives_them() -> None:
    def whole(body: dict) -> dict:
        answer = loopback.completion("m", body)
        tops = [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.4}]
        answer["choices"][0]["logprobs"] = {
            "content": [{"token": "m", "logprob": -0.1, "top_logprobs": tops}]
        }
        return answer

    with Loopback(whole) as server:
        reply, first = asyncio.run(load(server.spec).reply_with_first(HELLO, Sampling()))
        assert (reply.text, first) == ("m", {"m": -0.1, "M": -2.4})
        assert server.chats[0].body["logprobs"] is True
    refusal = loopback.status(400, "logprobs is not supported")
    with Loopback("m", faults=[refusal]) as server:
        model = load(server.spec)
        for _ in range(2):
            reply, first = asyncio.run(model.reply_with_first(HELLO, Sampling()))
            assert (reply.text, dict(first)) == ("m", {})
        assert [seen.body.get("logprobs") for seen in server.chats] == [True, None, None]


def test_a_request_says_everything_and_a_reply_is_whole() -> None:
    with Loopback("It is 3.5.") as server:
        reply = ask(
            load(server.spec), sampling=Sampling(temperature=0.2, top_p=0.9, max_tokens=33, seed=2**40 + 5)
        )
    assert server.chats[0].body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How do I halve 7?"}],
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 33,
        "seed": 5,
    }
    assert (reply.text, reply.finish, reply.model) == ("It is 3.5.", Finish.STOP, server.spec)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.attempts) == (5, 3, 1)
    assert 0 < reply.seconds < 5
    assert Reply.model_validate(reply.model_dump()) == reply


def test_a_free_start_is_one_system_message() -> None:
    with Loopback("Hi") as server:
        ask(load(server.spec), [], role=Role.USER)
        ask(load(server.spec, LocalModel(system="You are shy.")), [], role=Role.USER)
        ask(load(server.spec, LocalModel(system="You are shy.")))
        ask(load(server.spec, LocalModel(system="no")), [Message(role=Role.SYSTEM, content="mine"), *HELLO])
    first, second, third, fourth = (seen.body["messages"] for seen in server.chats)
    assert [turn["role"] for turn in first] == ["system"] and first[0]["content"].strip()
    assert second == [{"role": "system", "content": "You are shy."}]
    assert third[0] == second[0] and third[1]["role"] == "user"
    assert [turn["content"] for turn in fourth] == ["mine", HELLO[0].content]


def test_finish_and_end() -> None:
    def answer(body: dict) -> dict:
        text = body["messages"][-1]["content"]
        return loopback.completion(text, body, "length" if text == "long" else "stop")

    def said(text: str, role: Role = Role.USER) -> tuple[str, Finish]:
        reply = ask(model, [Message(role=Role.ASSISTANT, content=text)], role=role)
        return reply.text, reply.finish

    with Loopback(answer) as server:
        model = load(server.spec)
        assert said("long") == ("long", Finish.LENGTH)
        assert said(f"bye {END}") == ("bye ", Finish.END)
        assert said(f"{END}") == ("", Finish.END)
        assert said(f"bye{END} and a new opening") == ("bye", Finish.END)
        assert said(f"done{END}\n", Role.ASSISTANT) == ("done", Finish.END)
        assert said(f"the token {END} ends it", Role.ASSISTANT) == (f"the token {END} ends it", Finish.STOP)


@pytest.mark.parametrize(
    "text", ["", " \n", "{}\\frac{1}{2} 🙂 \r\n\t", "a\x00b", "é" * 10_000, "x" * 1_000_000]
)
def test_text_is_kept_to_the_byte(text: str) -> None:
    with Loopback(text) as server:
        assert ask(load(server.spec)).text == text


def test_lone_surrogates_and_a_large_request_pass() -> None:
    with Loopback(faults=[loopback.SURROGATE, None]) as server:
        model = load(server.spec)
        assert ask(model).text == "a\ufffdb"
        ask(model, [Message(role=Role.USER, content="x" * 3_000_000)])
    assert len(server.chats[1].body["messages"][0]["content"]) == 3_000_000


def test_contents_in_other_shapes() -> None:
    body = {"messages": []}
    thinking = loopback.completion("", body, "length")
    thinking["choices"][0]["message"]["content"] = None
    stopped = loopback.completion("bye", body)
    stopped["choices"][0]["stop_reason"] = END
    shapes = [
        (
            loopback.answer(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            "ab",
            Finish.STOP,
        ),
        (loopback.answer(content=None, refusal="No."), "No.", Finish.STOP),
        (loopback.raw(loopback.json.dumps(thinking)), "", Finish.LENGTH),
        (loopback.raw(loopback.json.dumps(stopped)), "bye", Finish.END),
        (
            loopback.raw('{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}'),
            "x",
            "stop",
        ),
    ]
    with Loopback(faults=[shape[0] for shape in shapes]) as server:
        model = load(server.spec)
        for _, text, finish in shapes:
            reply = ask(model, role=Role.USER)
            assert (reply.text, reply.finish, reply.attempts) == (text, finish, 1)


# faults


@pytest.mark.parametrize(
    "fault", [*loopback.EVERY, loopback.NO_CONTENT, loopback.NO_OBJECT, 408, 409, 425, 502, 503]
)
def test_a_passing_fault_is_survived(fault: loopback.Fault | int) -> None:
    with Loopback("ok", faults=[fault, fault]) as server:
        reply = ask(model_of(server))
    assert (reply.text, reply.attempts, len(server.chats)) == ("ok", 3, 3)


def test_eight_attempts_by_default() -> None:
    with Loopback("ok", faults=[loopback.TRUNCATED] * 7) as server:
        assert ask(load(server.spec)).attempts == 8
    with Loopback("ok", faults=lambda n, body: loopback.HTML) as server:
        with pytest.raises(errors.MalformedReply, match=r"an HTML page \(after 8 calls\)"):
            ask(load(server.spec))
        assert len(server.chats) == 8


def test_one_faulty_answer_in_five_and_all_calls_end() -> None:
    def faults(number: int, body: dict) -> loopback.Fault | None:
        return loopback.EVERY[number // 5 % len(loopback.EVERY)] if number % 5 == 0 else None

    async def many(model: RemoteModel) -> list[Reply]:
        return await asyncio.gather(*(model.reply(HELLO, Sampling(seed=i)) for i in range(300)))

    with Loopback(lambda body: str(body["seed"]), faults=faults) as server:
        replies = asyncio.run(many(model_of(server, concurrency=32)))
    assert [reply.text for reply in replies] == [str(i) for i in range(300)]
    assert sum(reply.attempts for reply in replies) == len(server.chats)
    assert server.busiest <= 33


def test_connections_are_reused() -> None:
    async def many(model: RemoteModel) -> None:
        for _ in range(5):
            await asyncio.gather(*(model.reply(HELLO, Sampling()) for _ in range(4)))

    with Loopback() as server:
        asyncio.run(many(model_of(server)))
    assert len(server.chats) == 20 and server.connections <= 4


def test_a_stall_costs_one_attempt_and_a_drip_only_its_time() -> None:
    with Loopback("ok", faults=[loopback.stall(30)]) as server:
        started = time.monotonic()
        assert ask(model_of(server, timeout=2.0)).attempts == 2
        assert time.monotonic() - started < 2
    with Loopback("ok " * 100, faults=lambda n, body: loopback.drip(0.05)) as server:
        started = time.monotonic()
        with pytest.raises(errors.Unreachable, match="no answer in time"):
            ask(model_of(server, timeout=1.0))
        assert time.monotonic() - started < 2


def test_a_server_may_restart_meanwhile() -> None:
    async def through(model: RemoteModel, server: Loopback) -> Reply:
        await model.reply(HELLO, Sampling())
        await asyncio.to_thread(server.stop)
        call = asyncio.create_task(model.reply(HELLO, Sampling()))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(server.start)
        return await call

    with Loopback("ok") as server:
        reply = asyncio.run(through(model_of(server, attempts=12), server))
    assert reply.text == "ok" and reply.attempts > 1


def test_nobody_there() -> None:
    with Loopback() as server:
        spec = server.spec
    model = load(spec, requests=Requests(attempts=3, timeout=5))
    for call in (model.reply(HELLO, Sampling()), model.check()):
        with pytest.raises(errors.Unreachable, match=r"refused \(after 3 calls\)") as caught:
            asyncio.run(call)
        assert spec.partition("#")[0] in str(caught.value)
    with pytest.raises(errors.Unreachable, match="not known"):
        ask(load("http://no.such.host.invalid/v1#m", requests=Requests(attempts=1)))


# Retry-After, and storms


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected(form: str) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    with Loopback("ok", faults=[loopback.status(429, retry_after=value)]) as server:
        started = time.monotonic()
        assert ask(model_of(server)).text == "ok"
    assert 0.9 <= time.monotonic() - started < 4


def test_a_wait_beyond_the_time_allowed_is_not_begun() -> None:
    with Loopback(faults=lambda n, body: loopback.status(429, "slow down", retry_after=3600)) as server:
        started = time.monotonic()
        with pytest.raises(errors.Unreachable, match=r"slow down \(after 1 call; it asks to wait 3600 s"):
            ask(model_of(server, timeout=3))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("value", ["", "soon", "nan", "-5", "inf", "Thu, 99 Foo"])
def test_an_unreadable_retry_after_is_left_aside(value: str) -> None:
    with Loopback("ok", faults=[loopback.status(429, retry_after=value)]) as server:
        assert ask(model_of(server)).text == "ok"


def test_a_storm_is_not_multiplied() -> None:
    """One 429 silences everybody: 40 callers of two models, and a server that wants quiet for most of a second."""
    born = time.monotonic()

    def faults(number: int, body: dict) -> loopback.Fault | None:
        return loopback.status(429, retry_after=0.4) if time.monotonic() - born < 0.8 else None

    async def many(*models: RemoteModel) -> list[Reply]:
        return await asyncio.gather(*(model.reply(HELLO, Sampling()) for model in models for _ in range(20)))

    with Loopback("ok", faults=faults) as server:
        replies = asyncio.run(many(model_of(server), model_of(server)))
    assert all(reply.text == "ok" for reply in replies)
    assert len(server.chats) <= 40 * 4


# final errors, in the server's words

FULL = "This model's maximum context length is 8 tokens. However, you requested 9 ('max_completion_tokens')."


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (loopback.status(401, "Bad key."), errors.WrongKey, "Bad key."),
        (loopback.status(403, "No."), errors.WrongKey, "No."),
        (
            loopback.status(404, "The model `tiny` does not exist"),
            errors.UnknownModel,
            "`tiny` does not exist",
        ),
        (loopback.status(400, FULL), errors.ContextFull, "maximum context length is 8"),
        (loopback.status(413, "Too large"), errors.ContextFull, "Too large"),
        (loopback.status(422, "Field missing"), errors.ModelError, "Field missing"),
        (loopback.raw('{"detail": [{"loc": ["body"], "msg": "odd"}]}', 422), errors.ModelError, "odd"),
        (loopback.status(402, "Pay first"), errors.ModelError, "Pay first"),
        (loopback.status(429, "insufficient_quota: add credit"), errors.ModelError, "add credit"),
        (loopback.raw("<html>oops</html>", 400, "text/html"), errors.ModelError, "an HTML page"),
        (loopback.raw("plain \x1b[31mwords", 418, "text/plain"), errors.ModelError, "plain \ufffd[31mwords"),
        (loopback.status(400, "y" * 5000), errors.ModelError, "y" * 300 + "…"),
        (loopback.REDIRECT, errors.ModelError, "redirects to /elsewhere/chat/completions"),
    ],
)
def test_final_at_once(fault: loopback.Fault, kind: type[Exception], words: str) -> None:
    with Loopback(faults=[fault]) as server:
        with pytest.raises(kind) as caught:
            ask(load(server.spec))
        assert type(caught.value) is kind or kind is errors.ModelError
        assert words in str(caught.value) and len(str(caught.value).splitlines()) == 2
        assert len(server.requests) == 1


def test_a_filtered_reply_is_final() -> None:
    filtered = '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'
    with (
        Loopback(faults=[loopback.raw(filtered)]) as server,
        pytest.raises(errors.ModelError, match="filter"),
    ):
        ask(load(server.spec))


# fields that a server does not take

REFUSALS = [
    ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ("seed", "Unrecognized request argument supplied: seed"),
    (
        "temperature",
        "'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
    ),
    ("top_p", "temperature and top_p cannot both be specified"),
    ("response_format", "'response_format' is not supported by this model"),
]


@pytest.mark.parametrize(("field", "words"), REFUSALS)
def test_a_field_the_server_refuses_is_left_out_and_remembered(
    field: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def faults(number: int, body: dict) -> loopback.Fault | None:
        return loopback.status(400, words) if field in body else None

    with Loopback("ok", faults=faults) as server, caplog.at_level(logging.WARNING):
        model = model_of(server)
        schema = {"type": "object"}
        first, second = ask(model, schema=schema), ask(model, schema=schema)
        assert (first.attempts, second.attempts) == (2, 1)
        assert "".join(streamed(model)[0]) == "ok"
    assert [field in seen.body for seen in server.chats] == [True, False, False, False]
    assert ("max_completion_tokens" in server.chats[-1].body) == (field == "max_tokens")
    assert list(model.refused) == [field] and len(caplog.records) == 1 and field in caplog.text


def test_a_field_is_blamed_only_where_leaving_it_out_helped() -> None:
    with Loopback(faults=lambda n, body: loopback.status(400, "unknown seed of doubt")) as server:
        model = load(server.spec)
        with pytest.raises(errors.ModelError, match="seed of doubt"):
            ask(model)
    assert model.refused == {}


def test_a_schema_goes_as_response_format() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    with Loopback("{}") as server:
        ask(load(server.spec), schema=schema)
    assert server.chats[0].body["response_format"]["json_schema"]["schema"] == schema


# addresses and keys


@pytest.mark.parametrize(
    ("spec", "environment", "url", "name", "variable"),
    [
        ("openai/gpt-4o", {}, "https://api.openai.com/v1", "gpt-4o", "OPENAI_API_KEY"),
        ("openai/org/m", {"OPENAI_BASE_URL": "http://h:1/v1/"}, "http://h:1/v1", "org/m", "OPENAI_API_KEY"),
        (
            "http://h:1/v1#org/m",
            {"OPENAI_BASE_URL": "http://x/v1"},
            "http://h:1/v1",
            "org/m",
            "MAIEUTIC_API_KEY",
        ),
        ("https://h/v1/", {}, "https://h/v1", "", "MAIEUTIC_API_KEY"),
        ("ollama/llama3", {}, "http://127.0.0.1:11434/v1", "llama3", None),
        ("ollama/a:b", {"OLLAMA_HOST": "box"}, "http://box:11434/v1", "a:b", None),
        ("ollama/a", {"OLLAMA_HOST": "0.0.0.0:8000"}, "http://127.0.0.1:8000/v1", "a", None),
        ("ollama/a", {"OLLAMA_HOST": ":8000"}, "http://127.0.0.1:8000/v1", "a", None),
        ("ollama/a", {"OLLAMA_HOST": "https://box/"}, "https://box/v1", "a", None),
    ],
)
def test_addresses(spec: str, environment: dict, url: str, name: str, variable: str | None) -> None:
    assert address(spec, environment)[:3] == (url, name, variable)


@pytest.mark.parametrize(
    "spec",
    [
        f"http://me:{CANARY}@h/v1#m",
        f"http://{CANARY}@h/v1",
        f"https://h/v1?key={CANARY}#m",
        "http://",
        "http://h:99999/v1",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(spec: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        load(spec)
    assert CANARY not in str(caught.value)


def test_each_kind_sends_only_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with Loopback() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
        ask(load(server.spec))
        ask(load("ollama/tiny"))
        ask(load("openai/tiny"))
        monkeypatch.setenv("MAIEUTIC_API_KEY", " ours ")
        ask(load(server.spec))
    sent = [seen.headers.get("Authorization") for seen in server.chats]
    assert sent == [None, None, f"Bearer {CANARY}", "Bearer ours"]


def test_a_redirect_takes_no_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIEUTIC_API_KEY", CANARY)
    with Loopback() as other:
        away = loopback.Fault("status", 302, "", {"Location": f"{other.url}/chat/completions?{CANARY}"})
        with Loopback(faults=[away]) as server, pytest.raises(errors.ModelError, match="redirects") as caught:
            ask(load(server.spec))
        assert other.requests == []
    assert CANARY not in str(caught.value)


def test_proxies_of_the_machine_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Loopback("ok") as server:
        assert ask(load(server.spec, requests=Requests(attempts=1))).text == "ok"


def test_the_key_stands_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Every way to fail, at a server that quotes the key wherever it can."""
    monkeypatch.setenv("MAIEUTIC_API_KEY", CANARY)
    words = f"key {CANARY} seed unsupported"
    faults = [
        *loopback.EVERY,
        *(loopback.status(code, words) for code in (400, 401, 403, 404, 413, 418, 422, 429, 500)),
        loopback.raw(f'{{"error": {{"message": "{words}"}}}}'),
        loopback.raw(words, 400, "text/plain"),
        loopback.answer(content=f"you sent {CANARY}"),
    ]
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for fault in faults:
            with Loopback(faults=lambda n, body, fault=fault: fault) as server:
                model = model_of(server, attempts=2)
                for call in (ask, streamed):
                    try:
                        seen.append(repr(call(model)))
                    except errors.ModelError as error:
                        seen += traceback.format_exception(error)
                        seen += [repr(error), repr(vars(error)), repr(error.__context__)]
                assert server.chats[0].headers["Authorization"] == f"Bearer {CANARY}"
            seen += [repr(model), repr(vars(model)), repr(vars(model._http)), str(model.refused)]
        with (
            Loopback(key="another") as server,
            pytest.raises(errors.WrongKey, match="MAIEUTIC_API_KEY") as caught,
        ):
            asyncio.run(model_of(server).check())
        seen.append(str(caught.value))
    assert len(seen) > 50 and CANARY not in "\n".join([*seen, caplog.text])


def test_a_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIEUTIC_API_KEY", f"{CANARY}\nX-Evil: 1")
    with pytest.raises(errors.InputError, match="MAIEUTIC_API_KEY") as caught:
        load("http://127.0.0.1/v1#m")
    assert CANARY not in str(caught.value)


def test_an_address_beyond_this_machine_gets_the_key_only_by_name() -> None:
    """So a recipe's URL cannot fetch it."""
    environment = {"MAIEUTIC_API_KEY": CANARY}
    stranger, named = (
        address("https://h:8000/v1#m", environment),
        {**environment, "MAIEUTIC_API_HOST": "h:8000"},
    )
    assert not key(stranger, environment)
    assert key(stranger, named)
    assert not key(address("https://h.evil:8000/v1#m", named), named)
    assert not key(address("https://other/v1#m", named), named)
    assert key(address("http://127.0.0.1:1/v1#m", environment), environment)
    assert "MAIEUTIC_API_HOST=h:8000" in how_to_set(stranger, environment)


@given(st.text(), st.text(min_size=8))
def test_a_hidden_key_is_gone(text: str, value: str) -> None:
    hidden = Key(value, "V").hidden(f"{text}{value}{text}")
    assert "[the key]" in hidden and value not in hidden.replace("[the key]", "\x00")
    assert value not in repr(Key(f"#{value}", "V")) or value in "Key(V, set)"


# check


def test_check_accepts_a_good_server() -> None:
    with Loopback() as server:
        asyncio.run(load(server.spec).check())
    with Loopback(models=None) as server:
        asyncio.run(load(server.spec).check())
    assert server.chats == []


def test_check_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Loopback(models=["a-model", "b-model"]) as server,
        pytest.raises(errors.UnknownModel, match="c-model") as caught,
    ):
        asyncio.run(load(f"{server.url}#c-model").check())
    assert "a-model" in caught.value.hint and "b-model" in caught.value.hint
    with Loopback(key="right") as server:
        with pytest.raises(errors.WrongKey, match="Set MAIEUTIC_API_KEY"):
            asyncio.run(load(server.spec).check())
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(errors.WrongKey, match="OPENAI_API_KEY"):
            asyncio.run(load("openai/tiny").check())
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        asyncio.run(load("openai/tiny").check())
    with Loopback(models=["llama3:latest"]) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        asyncio.run(load("ollama/llama3").check())


def test_openai_itself_wants_a_key() -> None:
    model = load("openai/gpt-4o")
    for call in (model.check(), model.reply(HELLO, Sampling())):
        with pytest.raises(errors.WrongKey, match="OPENAI_API_KEY is not set"):
            asyncio.run(call)


def test_an_address_without_a_name_means_the_only_model() -> None:
    with Loopback("ok") as server:
        model = load(server.url)
        assert ask(model).text == "ok" and server.chats[0].body["model"] == "tiny"
        assert model.id == server.url
    for models, words in ((["a", "b"], "has a, b"), ([], "has no models"), (None, "does not list")):
        with Loopback(models=models) as server:
            for call in (load(server.url).check(), load(server.url).reply(HELLO, Sampling())):
                with pytest.raises(errors.UnknownModel, match=words):
                    asyncio.run(call)


# loops


def test_many_loops_and_close_is_safe() -> None:
    with Loopback("ok") as server:
        model = load(server.spec)
        for _ in range(3):
            assert ask(model).text == "ok"
        asyncio.run(model.close())

        async def twice() -> None:
            await model.reply(HELLO, Sampling())
            await model.close()
            await model.close()
            await model.reply(HELLO, Sampling())

        asyncio.run(twice())
    assert len(server.chats) == 5


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async def cancelled(model: RemoteModel) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.reply(HELLO, Sampling()), 0.1)
        return (await model.reply(HELLO, Sampling())).text

    with Loopback("ok", faults=[loopback.stall(30)]) as server:
        assert asyncio.run(cancelled(model_of(server, concurrency=1))) == "ok"


# streams


def test_a_stream_makes_up_the_reply() -> None:
    with Loopback("Half of 7 is 3.5, so 🙂\n.") as server:
        pieces, reply = streamed(load(server.spec))
    assert len(pieces) > 3 and "".join(pieces) == reply.text == "Half of 7 is 3.5, so 🙂\n."
    assert reply.finish == Finish.STOP and server.chats[0].body["stream"] is True


@pytest.mark.parametrize("text", [f"bye{END}", f"{END}", f"a < b <| c{END} x", "ends in <|endof"])
def test_a_stream_holds_end_back(text: str) -> None:
    with Loopback(text) as server:
        pieces, reply = streamed(load(server.spec), role=Role.USER)
    assert "".join(pieces) == reply.text == text.partition(END)[0]
    assert (reply.finish == Finish.END) == (END in text)


@pytest.mark.parametrize("fault", loopback.EVERY)
def test_a_stream_survives_faults_before_its_first_piece(fault: loopback.Fault) -> None:
    with Loopback("all of it", faults=[fault]) as server:
        pieces, reply = streamed(model_of(server))
    assert ("".join(pieces), reply.attempts) == ("all of it", 2)


def test_a_server_that_does_not_stream() -> None:
    with Loopback(faults=[loopback.answer(content="whole")]) as server:
        assert streamed(load(server.spec))[1].text == "whole"


@given(
    st.lists(st.sampled_from([END, "<|", "endof", "x", " ", "|>", END[:5], END[5:]]), max_size=8),
    st.sampled_from(Role),
)
def test_settled_text_only_grows_into_the_reply(pieces: list[str], role: Role) -> None:
    whole = ""
    final = remote.until_end("".join(pieces), role)[0]
    for piece in pieces:
        whole += piece
        assert final.startswith(remote.settled(whole, role)) or role != Role.USER
