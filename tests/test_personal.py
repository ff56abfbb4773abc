"""Personal data: what is found, what only looks like it, and that masking twice changes nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest
from conversations import talk
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.messages import Conversation
from maieutic.data.importing import import_files
from maieutic.data.personal import Kind, mask, mask_conversation

FOUND = {
    "write to anna.b+x@school-mail.de please": "write to [EMAIL] please",
    "(jo@mit.edu), <jo@uni.ac.uk>.": "([EMAIL]), <[EMAIL]>.",
    "mailto:jo@gmail.com": "mailto:[EMAIL]",
    "my card is 4111 1111 1111 1111, ok": "my card is [CARD], ok",
    "amex 3782 822463 10005 or 5555555555554444.": "amex [CARD] or [CARD].",
    "+44 20 7946 0958": "[PHONE]",
    "it is +1 (415) 555-0134.": "it is [PHONE].",
    "(415) 555-0134 or 415-555-0134 or 1-415-555-0134": "[PHONE] or [PHONE] or [PHONE]",
    "06 12 34 56 78": "[PHONE]",
    "+33 6 12 34 56 78 or 06-12-34-56-78": "[PHONE] or [PHONE]",
    "my number is 07700 900123, cell: 415 555 0134": "my number is [PHONE], cell: [PHONE]",
    "415.555.0134": "[PHONE]",
    "ring me on 0171/1234567": "ring me on [PHONE]",
    "tel: 020 7946 0958": "tel: [PHONE]",
    "my phone number is 5550134123": "my phone number is [PHONE]",
    "WhatsApp +491711234567!": "WhatsApp [PHONE]!",
    "DE89 3704 0044 0532 0130 00": "[IBAN]",
    "IBAN: GB82WEST12345698765432.": "IBAN: [IBAN].",
    "key='sk-abcdEFGH1234567890abcdEFGH'": "key='[KEY]'",
    "sk-proj-abcd_EFGH1234567890-abcdEFGH12": "[KEY]",
    "AKIAIOSFODNN7EXAMPLE and ghp_0123456789abcdefghijABCDEFGHIJ012345": "[KEY] and [KEY]",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH": "[KEY]",
    "gsk_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ": "[KEY]",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "aws_secret_access_key = [KEY]",
    'API_KEY="d41d8cd98f00b204e9800998ecf8427e"': 'API_KEY="[KEY]"',
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N": "[KEY]",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----\nok": "[KEY]\nok",
    f"-----BEGIN PRIVATE KEY-----\n{'MIIa' * 16}\n{'b8+/' * 16}\nIt ends here.": "[KEY]\nIt ends here.",
}

NOT_FOUND = [
    "The file begins with -----BEGIN PRIVATE KEY----- and then the key follows.",
    "version 1.2.3.4, Python 3.11.4 and build 10.15.7-2023",
    "pi is 3.14159265358979323846264338327950288",
    "0.4111111111111111 and 12.4111111111111111",
    "on 2023-11-05, 12/05/2023, 05.11.2023 at 10:30-11:45",
    "call on 2023-11-05",
    "1 2 3 4 5 6 7 8 9 10\n01 02 03 04 05 06 07\n100 200 3000 400",
    r"\begin{pmatrix} 100 & 200 & 3000 \\ 1 & 2 & 3 \end{pmatrix}",
    "[[415, 555, 134], [100, 200, 3000]]",
    "q@k.transpose(0, 1) + A@B.T - W@x.reshape(n) / u@v.mean",
    "@app.route('/x')\n@pytest.fixture",
    "git clone git@github.com:org/repo.git",
    "user@example.com, you@mail.example.org, root@localhost, me@host.test",
    "20! = 2432902008176640000 and 2^64 = 18446744073709551616",
    "4111111111111111 + 1 = 4111111111111112",
    "n * 4111111111111111",
    "x = 4111111111111111",
    "4111111111111112 is no card",
    "timestamp 1699999999999, id 12345678901234567890",
    "ISBN 978-3-16-148410-0, arXiv 2308.11534",
    "f81d4fae-7dec-11d0-a765-00a0c91e6bf6 and sha 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "192.168.100.200:8080",
    "1,234,567,890 people, 1 000 000 000 euros, 1234567890",
    "555 - 123 - 4567 = -4135",
    "x=415-555-0134",
    "a +12345678 b + 12345678",
    "+3.14159265, +10000000000 and +12 34 56 78 90",
    "7 + 100-200-3000 and 111-222-3333 = -5444",
    "08 15 23 42 16",
    "My number is 1234567. Guess it!",
    "api_key = load_the_secret_from_vault_2(name); access_token = os.environ['TOKEN']",
    "secret_key: your_own_secret_key_goes_here",
    "range(100, 200, 3000); text 1, 2, 3, 4, 5, 6, 7, 8",
    "Text 12 34 56 78 in cell 12345678",
    "phone 3.14159265",
    "sk-learn and sk-hynix-memory-module-product-line",
    "AB12 3456 7890 1234 is no IBAN",
    "6.02214076e23 mol, 99.999999999 %, $1,200-300-4000",
    "#12345678 and 0x4111111111111111",
    "def call(me): return f(1234567, 7654321)",
]


@pytest.mark.parametrize("text", FOUND)
def test_found(text: str) -> None:
    assert mask(text).text == FOUND[text]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_numbers_code_and_mathematics_stay(text: str) -> None:
    assert mask(text).text == text and not mask(text).found


PIECES = st.sampled_from(
    [
        *"+-()@. \n/:#=7",
        "12",
        "415",
        "555-0134",
        "4111 1111 1111 1111",
        "jo@mit.edu",
        "sk-",
        "a1b2c3d4e5f6g7h8i9j0",
        "call me ",
        "DE89 3704 0044 0532 0130 00",
        "BEGIN PRIVATE KEY-----",
        "-----",
        "[EMAIL]",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text())
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask(text)
    assert mask(once.text) == (once.text, {})
    if not once.found:
        assert once.text == text


def test_every_text_of_a_conversation_is_looked_at() -> None:
    conversation = Conversation.model_validate(
        {
            **talk("I am jo@mit.edu", "Hello!", problem="Ask jo@mit.edu", user_id="jo@mit.edu").row(),
            "intent": "mail jo@mit.edu",
            "meta": {"prompt": ["x", {"y": "jo@mit.edu"}], "n": 3},
        }
    )
    masked, found = mask_conversation(conversation)
    assert found[Kind.EMAIL] >= 5 and "mit.edu" not in masked.model_dump_json()
    assert masked.meta == {"prompt": ["x", {"y": "[EMAIL]"}], "n": 3} and masked.id == conversation.id
    other = mask_conversation(talk("I am jo@mit.edu", "Hello!", user_id="jo@mit.edu")).conversation
    assert masked.user_id == other.user_id != "jo@mit.edu"
    assert mask_conversation(talk("a", "b")).conversation is not None


def test_real_conversations_have_none_and_keep_every_character(real_data: Path) -> None:
    others = [real_data / name for name in ("mathdial", "socratic-llm/debugging_train.json")]
    sources = [*(real_data / "real-chats").glob("*.jsonl"), *others]
    for conversation in import_files(sources)[0]:
        masked, found = mask_conversation(conversation)
        assert not found and masked == conversation
