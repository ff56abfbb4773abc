"""Dialogues between two models: none lost, none paid for twice, and a cause for each that could not end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import EVERY, HTML, TRUNCATED, Loopback, status

from maieutic.data.corpus import read_corpus
from maieutic.errors import BudgetSpent, EmptyCorpus, InputError, RunConflict, TooManyFailures, WrongKey
from maieutic.models import ModelOptions, load
from maieutic.simulate import SimulateConfig, simulate
from maieutic.simulate.guards import DEFAULT, GUARDS, Context, broken, parse
from maieutic.simulate.users import END_WORD, swapped
from maieutic.store import read_rows
from maieutic.types import Conversation, Finish, Reply, Role, Sampling, Turn

USER = [
    {"trained_role": "user"},
    {"text": "How do I bake bread?", "end_probability": 0.01},
    {"text": "And how long in the oven?"},
    {"text": "", "finish": "end", "end_probability": 0.9},
]


def script(folder: Path, name: str, lines: list[dict]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return f"script/{path}"


def pair(folder: Path, user: list[dict] | None = None):
    return load(script(folder, "user", user or USER)), load(
        script(
            folder,
            "assistant",
            [{"text": "With flour."}, {"text": "Forty minutes."}, {"text": "You are welcome."}],
        )
    )


def rows(out: Path) -> list[dict]:
    return list(read_rows(out / "rows.jsonl"))


def test_a_trained_user_talks_until_it_ends_and_the_run_is_a_corpus(tmp_path):
    summary = simulate(*pair(tmp_path), tmp_path / "run", 3)
    assert (summary.dialogues, summary.failed, summary.ends) == (3, 0, {"end": 3})
    assert summary.replies == 3 * 5
    corpus = list(read_corpus(tmp_path / "run"))
    assert len({conversation.id for conversation in corpus}) == 3
    for conversation in corpus:
        assert [turn.role.value for turn in conversation.messages] == ["user", "assistant"] * 2
        assert conversation.ended
        assert conversation.meta["turns"]["end"]["end_probability"] == 0.9
        assert conversation.meta["turns"]["0"]["seed"] >= 0


def test_words_before_the_end_are_kept_and_nobody_answers_them(tmp_path):
    user = [{"trained_role": "user"}, {"text": "Hello?"}, {"text": "Fine, bye.", "finish": "end"}]
    simulate(*pair(tmp_path, user), tmp_path / "run", 1)
    (conversation,) = read_corpus(tmp_path / "run")
    assert [turn.content for turn in conversation.messages] == ["Hello?", "With flour.", "Fine, bye."]
    assert conversation.ended


def test_rounds_count_those_of_the_seed_and_cut_chats_do_not_teach_an_end(tmp_path):
    seeds = tmp_path / "seeds.jsonl"
    turns = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "One."}]
    seeds.write_text(
        json.dumps({"messages": [*turns, {"role": "user", "content": "Two?"}], "licence": "MIT"}) + "\n"
    )
    user = [{"trained_role": "user"}, {"text": "a"}, {"text": "b c"}, {"text": "d"}]
    config = SimulateConfig(seeds=seeds, rounds=2, min_rounds=9)
    simulate(*pair(tmp_path, user), tmp_path / "run", None, config)
    (conversation,) = read_corpus(tmp_path / "run")
    assert len(conversation.messages) == 4
    assert not conversation.ended
    assert conversation.licence == "MIT"
    first = SimulateConfig(seeds=seeds, rounds=2, seed_turns=1)
    simulate(*pair(tmp_path, user), tmp_path / "other", None, first)
    (conversation,) = read_corpus(tmp_path / "other")
    assert [turn.content for turn in conversation.messages][:2] == ["One?", "With flour."]


def test_the_user_may_not_end_before_the_minimum(tmp_path):
    user = [{"trained_role": "user"}, {"text": "bye", "finish": "end"}]
    config = SimulateConfig(min_rounds=3, rounds=5, guards="none")
    simulate(*pair(tmp_path, user), tmp_path / "run", 1, config)
    (conversation,) = read_corpus(tmp_path / "run")
    assert len(conversation.turns(Role.ASSISTANT)) == 3


def test_more_dialogues_later_go_on_in_the_same_run_and_other_settings_are_refused(tmp_path):
    simulate(*pair(tmp_path), tmp_path / "run", 2)
    before = rows(tmp_path / "run")
    again = simulate(*pair(tmp_path), tmp_path / "run", 2)
    assert again.replies == 0
    more = simulate(*pair(tmp_path), tmp_path / "run", 5)
    assert (more.dialogues, more.replies) == (5, 15)
    assert rows(tmp_path / "run")[:2] == before
    with pytest.raises(RunConflict, match="rounds"):
        simulate(*pair(tmp_path), tmp_path / "run", 5, SimulateConfig(rounds=3))


def test_a_served_pair_talks_with_exactly_one_call_a_turn_without_guards(tmp_path):
    with Loopback(reply="the same words again and again") as server:
        user, assistant = (load(server.spec) for _ in range(2))
        config = SimulateConfig(rounds=4, guards="none", concurrency=8)
        summary = simulate(user, assistant, tmp_path / "run", 5, config)
        assert len(server.chats) == 5 * 4 * 2 == summary.replies
        # A free start reaches the server as messages it can answer.
        assert all(seen.body["messages"] for seen in server.chats)
    assert summary.ends == {"rounds": 5}


def test_repeats_are_drawn_again_and_counted(tmp_path):
    with Loopback(reply="the same words again and again") as server:
        user, assistant = (load(server.spec) for _ in range(2))
        config = SimulateConfig(rounds=2, redraws=2)
        summary = simulate(user, assistant, tmp_path / "run", 1, config)
        assert summary.guards == {"repeat": 4}
        assert len(server.chats) == 8
    (row,) = rows(tmp_path / "run")
    assert row["meta"]["turns"]["2"]["gave_up"] == "repeat"


def test_empty_turns_never_crash_and_name_who_gave_them(tmp_path):
    with Loopback(
        reply=lambda body: "" if "playing a person" not in str(body["messages"][0]) else "Hi?"
    ) as server:
        user, assistant = (load(server.spec) for _ in range(2))
        with pytest.raises(TooManyFailures, match=r"2 of 2 dialogues failed \(2 by assistant_model; "):
            simulate(user, assistant, tmp_path / "run", 2)
    for row in rows(tmp_path / "run"):
        assert row["failure"]["fault"] == "assistant_model"
        assert len(row["messages"]) == 1
    with pytest.raises(EmptyCorpus):
        list(read_corpus(tmp_path / "run"))
    with Loopback(reply="") as server:
        user, assistant = (load(server.spec) for _ in range(2))
        config = SimulateConfig(rounds=2, guards="none")
        assert simulate(user, assistant, tmp_path / "none", 2, config).dialogues == 2


def test_failed_dialogues_are_rows_with_a_cause_and_only_they_are_asked_again(tmp_path):
    options = ModelOptions(attempts=2, timeout=5)
    with Loopback(reply="Yes?", models=None) as server:
        spec = server.spec
        server.faults = lambda number, body: status(500) if number >= 10 else None
        config = SimulateConfig(rounds=1, concurrency=1, guards="none")
        with pytest.raises(TooManyFailures, match="only those are asked again"):
            simulate(load(spec, options), load(spec, options), tmp_path / "run", 8, config)
        causes = [row["failure"]["fault"] for row in rows(tmp_path / "run") if "failure" in row]
        assert causes == ["network"] * 3
        assert len(list(read_corpus(tmp_path / "run"))) == 5
        server.faults = ()
        asked = len(server.chats)
        summary = simulate(load(spec, options), load(spec, options), tmp_path / "run", 8, config)
        assert (summary.dialogues, summary.failed) == (8, 0)
        assert len(server.chats) - asked == 6
    assert len(list(read_corpus(tmp_path / "run"))) == 8


def test_one_faulty_answer_in_five_loses_no_dialogue(tmp_path):
    def faults(number: int, body: dict):
        return EVERY[number // 5 % len(EVERY)] if number % 5 == 0 else None

    with Loopback(reply=lambda body: f"Why {len(body['messages'])}?", faults=faults) as server:
        config = SimulateConfig(rounds=3, concurrency=16, guards="none")
        summary = simulate(load(server.spec), load(server.spec), tmp_path / "run", 20, config)
    assert (summary.dialogues, summary.failed, summary.replies) == (20, 0, 120)
    assert len({row["key"] for row in rows(tmp_path / "run")}) == 20


def test_a_refused_key_stops_the_run_at_once(tmp_path):
    with Loopback(key="right") as server, pytest.raises(WrongKey):
        simulate(load(server.spec), load(server.spec), tmp_path / "run", 50)
    assert len(server.chats) == 0


def test_a_spent_budget_stops_cleanly_and_a_larger_one_goes_on(tmp_path):
    config = SimulateConfig(concurrency=1, budget_tokens=30)
    with pytest.raises(BudgetSpent):
        simulate(*pair(tmp_path), tmp_path / "run", 20, config)
    summary = simulate(
        *pair(tmp_path), tmp_path / "run", 20, config.model_copy(update={"budget_tokens": None})
    )
    assert summary.dialogues == 20


RUNNER = """
import sys
from maieutic.models import load
from maieutic.simulate import SimulateConfig, simulate
spec, out = sys.argv[1:]
simulate(load(spec), load(spec), out, 12, SimulateConfig(rounds=3, concurrency=4, guards="none"))
"""


def test_killed_at_any_moment_it_goes_on_from_the_last_finished_turn(tmp_path):
    """SIGKILL at counted calls, several times: each dialogue stands once, and little is asked twice."""
    with Loopback(reply=lambda body: f"Why {len(body['messages'])}?", latency=0.02) as server:
        command = [sys.executable, "-c", RUNNER, server.spec, str(tmp_path / "run")]
        for target in (7, 23, 41):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while len(server.chats) < target and time.monotonic() < deadline:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
        asked = len(server.chats)
    corpus = list(read_corpus(tmp_path / "run"))
    assert len(corpus) == len({conversation.id for conversation in corpus}) == 12
    needed = 12 * 3 * 2
    assert all(len(conversation.messages) == 6 for conversation in corpus)
    # Turns are durable in groups: a kill costs what was in flight, and at most what was not yet written out.
    assert needed <= asked <= needed + 3 * 4


def test_two_processes_never_write_one_run(tmp_path):
    from maieutic.errors import RunLocked
    from maieutic.store import Stage

    simulate(*pair(tmp_path), tmp_path / "run", 1)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    with Stage(tmp_path / "run", config), pytest.raises(RunLocked):
        simulate(*pair(tmp_path), tmp_path / "run", 2)


def test_a_prompted_user_sees_the_sides_swapped_and_ends_by_its_word():
    start = Conversation.model_validate(
        {"messages": [], "intent": "bake {{bread}}", "problem": {"statement": "2+2", "attempt": "5"}}
    )
    turns = [Turn(role=Role.USER, content="Hi"), Turn(role=Role.ASSISTANT, content="Yes?")]
    seen = swapped(start, turns)
    assert [turn.role.value for turn in seen] == ["system", "user", "assistant", "user"]
    assert all(text in seen[0].content for text in ("bake {{bread}}", "2+2", "5", END_WORD))
    assert seen[-1].content == "Yes?"


def test_a_prompted_user_s_end_word_ends_the_dialogue_and_what_it_said_before_is_kept(tmp_path):
    def reply(body: dict) -> str:
        played = "playing a person" in body["messages"][0]["content"]
        return (
            ("Thanks. " + END_WORD + " never read" if len(body["messages"]) > 3 else "Hi?")
            if played
            else "Yes."
        )

    with Loopback(reply=reply) as server:
        simulate(load(server.spec), load(server.spec), tmp_path / "run", 1)
    (conversation,) = read_corpus(tmp_path / "run")
    assert [turn.content for turn in conversation.messages] == ["Hi?", "Yes.", "Thanks."]
    assert conversation.ended


def draw(text: str, finish: Finish = Finish.STOP) -> Reply:
    return Reply(text=text, finish=finish)


@pytest.mark.parametrize(
    ("guard", "text", "said", "hit"),
    [
        ("empty", " \n", [], True),
        ("empty", "ok", [], False),
        ("repeat", "How do I bake bread?", ["how do I bake bread"], True),
        ("repeat", "How do I bake the bread at home", ["How do I bake the bread at home then"], False),
        ("repeat", "a b c d e f g h i j", ["a b c d e f g h i j k"], True),
        ("repeat", "bake some bread", [], True),
        ("repeat", "yes", ["no"], False),
        ("role_flip", "How can I help you today?", [], True),
        ("role_flip", "Sure! Here is the list.", [], True),
        ("role_flip", "how can i help my son with maths?", [], True),
        ("role_flip", "can you help me?", [], False),
        ("thanks", "Thank you!", ["thanks, bye"], True),
        ("thanks", "Thank you!", ["How long?"], False),
        ("thanks", "thanks, but why?", ["thanks!"], False),
        ("openings", "I want to bake", [], True),
        ("openings", "I want to bake", ["Hello"], False),
    ],
)
def test_guards_say_what_a_turn_must_not_be(guard, text, said, hit):
    messages = [Turn(role=Role.USER, content=each) for each in said]
    context = Context(messages, Role.USER, "bake some bread")
    assert GUARDS[guard](draw(text), context) == hit


def test_guards_are_named_and_an_end_is_never_empty():
    assert parse("default") == DEFAULT
    assert parse("none") == ()
    assert parse("repeat, empty") == ("repeat", "empty")
    with pytest.raises(InputError, match="no guard 'polite'"):
        parse("polite")
    assert not GUARDS["empty"](draw("", Finish.END), Context([], Role.USER, None))
    assert GUARDS["long"](draw("a", Finish.LENGTH), Context([], Role.USER, None))


@given(
    st.text(max_size=40),
    st.lists(st.text(max_size=40), max_size=4),
    st.sampled_from([Role.USER, Role.ASSISTANT]),
)
def test_guards_take_any_text(text, said, role):
    messages = [Turn(role=role, content=each) for each in said]
    assert broken(tuple(GUARDS), draw(text), Context(messages, role, None)) in (None, *GUARDS)


def test_garbage_with_status_200_is_asked_again(tmp_path):
    with Loopback(reply="Yes?", faults=[HTML, TRUNCATED, HTML, TRUNCATED, HTML, TRUNCATED, HTML]) as server:
        config = SimulateConfig(rounds=1, guards="none", concurrency=1)
        summary = simulate(load(server.spec), load(server.spec), tmp_path / "run", 1, config)
        assert summary.dialogues == 1
        assert len(server.chats) == 9


def test_the_same_seed_draws_the_same_and_dialogues_differ(tmp_path):
    user = [{"trained_role": "user"}, {"texts": [f"What about {n}?" for n in range(50)]}]
    config = SimulateConfig(rounds=2, guards="none")
    for name in ("one", "two"):
        simulate(*pair(tmp_path, user), tmp_path / name, 6, config)
    said = [[c.turns(Role.USER) for c in read_corpus(tmp_path / name)] for name in ("one", "two")]
    assert said[0] == said[1]  # in the order of the starts, whoever came first
    assert Counter(said[0]).most_common(1)[0][1] < 6
    assert Sampling().seed == 0


def test_a_script_that_changed_is_another_run(tmp_path):
    simulate(*pair(tmp_path), tmp_path / "run", 1)
    changed = [*USER[:2], {"text": "And where?"}]
    with pytest.raises(RunConflict, match=r"user\.model"):
        simulate(*pair(tmp_path, changed), tmp_path / "run", 1)
