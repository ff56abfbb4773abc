"""Convert a tokenizer to GGUF. Tokenizers that llama.cpp cannot reproduce are refused.

For byte-level BPE, llama.cpp has a name for each way to split a text. For SentencePiece-like BPE ("llama"), llama.cpp
merges by the score of the merged piece instead of a list of merges. Both agree only if the list contains every way to
make a piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from maieutic.chat_templates.encode import END
from maieutic.core.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    (_CONTRACTIONS + _WORDS.replace("DIGITS", "{1,3}"), True): "llama-bpe",
    (_CONTRACTIONS + _WORDS.replace("DIGITS", "{1,3}"), False): "smaug-bpe",
    (_CONTRACTIONS + _WORDS.replace("DIGITS", ""), False): "qwen2",
    (_CASED, True): "tekken",
}
"""llama.cpp's name of a byte-level BPE, by pattern and by whether a whole word in the vocabulary needs no merges."""
ENDING = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|end_of_text|>")
)
"""Tokens at which llama.cpp always stops, because of their names."""
_STRIPPED = "phi-3"
"""With this in the model's name llama.cpp drops the white space after control tokens, as Phi-3's tokenizer does."""
_UNSTRIPPED = frozenset(("<unk>", "<s>", "<|endoftext|>"))
OTHER = "Export it with --to merged, which keeps the tokenizer as it is."


class Vocabulary(NamedTuple):
    """The tokenizer fields of a GGUF file."""

    model: str
    """`gpt2` or `llama`."""
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    """Ids by `bos`, `eos`, `eot`, `eom`, `unknown`, `padding`."""
    add_bos: bool
    """Whether a chat begins with BOS."""
    space_prefix: bool
    strips: bool
    """Whether white space after control tokens is dropped; llama.cpp decides by the model's name."""

    def name(self, name: str) -> str:
        """The model's name, from which llama.cpp infers how to treat white space after control tokens."""
        bare = re.sub(r"phi-?3", "phi 3", name, flags=re.I)
        return f"{_STRIPPED} {bare}" if self.strips else bare


def vocabulary(tokenizer: Any, rows: int, ends: Sequence[int]) -> Vocabulary:
    """A tokenizer in the terms of GGUF.

    Args:
        tokenizer: a fast tokenizer with the served chat template.
        rows: rows of the model's embedding.
        ends: the ids at which a reply stops.

    Raises:
        ModelError: llama.cpp would encode a text to other ids, or not stop where the model stops.
    """
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    model = held["model"]
    if model["type"] != "BPE":
        raise ModelError(f"no GGUF for a tokenizer of type {model['type']}", OTHER)
    if odd := [
        name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)
    ]:
        raise ModelError(f"no GGUF for a tokenizer with {odd[0]}", OTHER)
    names = tokenizer.get_vocab()
    if max(names.values()) >= rows:
        raise ModelError(
            f"the tokenizer has {max(names.values()) + 1} tokens, the model only {rows} rows for them",
            "Save both from the same checkpoint.",
        )
    added = {int(index): token for index, token in tokenizer.added_tokens_decoder.items()}
    tokens, types = _tokens(names, added, rows)
    begins = _begins_with_bos(tokenizer)
    strips = _strips(added)
    special = _special(tokenizer, names, ends)
    if model.get("byte_fallback"):
        if model.get("ignore_merges") or not {f"<0x{byte:02X}>" for byte in range(256)} <= names.keys():
            raise ModelError("no GGUF for a SentencePiece-like tokenizer without all bytes and merges", OTHER)
        types = [
            BYTE if kind == NORMAL and re.fullmatch(r"<0x[0-9A-F]{2}>", token) else kind
            for token, kind in zip(tokens, types, strict=True)
        ]
        if "unknown" in special:
            types[special["unknown"]] = UNKNOWN
        prefix = _space_prefix(held, tokenizer)
        scores = _scores(model, tokens, added)
        return Vocabulary("llama", "default", tokens, types, [], scores, special, begins, prefix, strips)
    pre = _pre_tokenizer(held)
    merges = [" ".join(pair) for pair in _pairs(model)]
    return Vocabulary("gpt2", pre, tokens, types, merges, [], special, begins, False, strips)


def _tokens(names: Mapping[str, int], added: Mapping[int, Any], rows: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    for name, index in names.items():
        tokens[index], types[index] = name, NORMAL
    for index, token in added.items():
        if token.lstrip or token.single_word:
            raise ModelError(
                f"no GGUF for a tokenizer whose {token.content} depends on the text around it", OTHER
            )
        types[index] = CONTROL if token.special else USER
    if len(set(tokens)) != rows:
        raise ModelError(
            "the tokenizer has a token of the form [PAD7], which GGUF needs for unused rows", OTHER
        )
    return tokens, types


def _strips(added: Mapping[int, Any]) -> bool:
    """Whether control tokens include the white space after them: all of Phi-3's do, else none may."""
    every = {token.content for token in added.values()}
    swallow = {token.content for token in added.values() if token.rstrip}
    if not swallow:
        return False
    if every - swallow - _UNSTRIPPED - {END} or swallow & _UNSTRIPPED or not every >= _UNSTRIPPED | {"</s>"}:
        raise ModelError(
            f"no GGUF for a tokenizer in which {min(swallow)} takes the white space after it and others do not",
            OTHER,
        )
    return True


def _begins_with_bos(tokenizer: Any) -> bool:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], tokenize=False
    )
    return bool(tokenizer.bos_token) and str(text).startswith(tokenizer.bos_token)


def _special(tokenizer: Any, names: Mapping[str, int], ends: Sequence[int]) -> dict[str, int]:
    """The named ids. END is `eom`; another token that ends a turn and that llama.cpp does not know is `eot`."""
    texts = {index: name for name, index in names.items()}
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(ends), None)
    if eos is None:
        raise ModelError("a reply of this model stops at no token", "Name one in its generation_config.json.")
    found = {
        "bos": tokenizer.bos_token_id,
        "eos": eos,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    more = [index for index in ends if index != eos and texts[index] not in ENDING]
    if END in names and names[END] in more:
        more.remove(names[END])
        found["eom"] = names[END]
    for key in ("eot", "eom"):
        if more and key not in found:
            found[key] = more.pop(0)
    if more:
        raise ModelError(
            f"a reply stops at {len(ends)} tokens, more than GGUF can name ({texts[more[0]]} is left)", OTHER
        )
    return {key: int(index) for key, index in found.items() if index is not None}


def _pre_tokenizer(held: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a byte-level BPE splits a text before merging."""
    normalizer = (held["normalizer"] or {}).get("type")
    # NFC changes almost no text; llama.cpp does not apply it.
    if normalizer not in (None, "NFC"):
        raise ModelError(f"no GGUF for a byte-level tokenizer that normalizes by {normalizer}", OTHER)
    step = held["pre_tokenizer"] or {}
    steps = step.get("pretokenizers", [step])
    whole = bool(held["model"].get("ignore_merges"))
    last = steps[-1]
    if last.get("type") == "ByteLevel" and not last["add_prefix_space"]:
        if len(steps) == 1 and last["use_regex"] and not whole:
            return "gpt-2"
        if len(steps) == 2 and last["use_regex"] and not whole and steps[0].get("individual_digits"):
            return "smollm"
        if len(steps) == 2 and not last["use_regex"] and _isolates(steps[0]):
            pattern = steps[0]["pattern"].get("Regex")
            if name := SPLITS.get((pattern, whole)):
                return name
    raise ModelError("no GGUF for a tokenizer that splits text in a way llama.cpp has no name for", OTHER)


def _isolates(step: Mapping[str, Any]) -> bool:
    """Whether a step splits a text into the matches of its pattern (our patterns match everything)."""
    how = (step.get("behavior"), step.get("invert"))
    return step.get("type") == "Split" and how in (("Isolated", False), ("Removed", True))


def _pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for pair in model["merges"]:
        first, second = pair.split(" ") if isinstance(pair, str) else pair
        yield first, second


def _space_prefix(held: Mapping[str, Any], tokenizer: Any) -> bool:
    """Whether a space is put before a text and after every control token; other forms are refused."""
    normalizer, pre = held["normalizer"], held["pre_tokenizer"]
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if pre is None and steps in ([prepend, replace], [replace]):
        return bool(steps[0] == prepend)
    if pre is not None and pre["type"] == "Metaspace" and not steps and not pre["split"]:
        return _metaspace(str(pre["prepend_scheme"]), tokenizer)
    raise ModelError("no GGUF for a SentencePiece-like tokenizer that normalizes text", OTHER)


def _metaspace(scheme: str, tokenizer: Any) -> bool:
    """The same for a pre-tokenizer that adds no space to a text that begins with a space; llama.cpp adds one."""
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    said = [{"role": role, "content": " x"} for role in ("user", "assistant", "user")]
    text = str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
    if scheme == "first" and text.startswith(tuple(marks)):
        return False
    if scheme == "never" or (scheme == "always" and not any(f"{mark} " in text for mark in marks)):
        return scheme == "always"
    raise ModelError(
        f"no GGUF for this template with a tokenizer that puts a space before a text ({scheme})",
        "Pass a template that begins with a control token and has text after each, with --template FILE.",
    )


def _scores(model: Mapping[str, Any], tokens: Sequence[str], added: Mapping[int, Any]) -> list[float]:
    """Minus the rank of the merge that makes a piece; pieces that no merge makes come last."""
    merges = {pair: rank for rank, pair in enumerate(_pairs(model))}
    pieces = set(tokens) - {token.content for token in added.values()}
    made: dict[str, list[int]] = {}
    for (first, second), rank in merges.items():
        made.setdefault(first + second, []).append(rank)
    _refuse_other_merges(pieces, merges, made)
    return [-float(min(made[token])) if token in made else -1e9 for token in tokens]


def _refuse_other_merges(
    pieces: set[str], merges: Mapping[tuple[str, str], int], made: Mapping[str, list[int]]
) -> None:
    """Refuse merges that differ from merging by score: all ways to make a piece are merges, with adjacent ranks."""
    for piece in pieces:
        if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            continue
        for cut in range(1, len(piece)):
            first, second = piece[:cut], piece[cut:]
            if (first, second) not in merges and all(
                len(one) == 1 or one in pieces for one in (first, second)
            ):
                raise ModelError(
                    f"no GGUF for a tokenizer that has {piece!r} but never merges {first!r} and {second!r} into it",
                    OTHER,
                )
    places = sorted((min(ranks), max(ranks)) for ranks in made.values())
    if any(one[1] > two[0] for one, two in pairwise(places)):
        raise ModelError("no GGUF for a tokenizer whose merges of one piece are not together", OTHER)
