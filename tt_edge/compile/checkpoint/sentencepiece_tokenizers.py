"""Tokenizers that transformers has only in Python, as files of the ``tokenizers`` library: Marian's and M2M-100's.

transformers converts neither. Both have SentencePiece models whose pieces get their ids from a ``vocab.json``. What is built here
is only used if it gives the ids and texts of transformers' own tokenizer for a corpus: odd texts, and thousands of
texts of random pieces.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tt_edge.compile.odd_texts import ODD_TEXTS
from tt_edge.errors import InvalidInputError, MissingDependencyError

#: What SentencePiece has in place of a space.
_SPACE = "▁"
#: Before entries of the vocabulary that no text may become, because SentencePiece's model does not have them.
_HIDDEN = "\ue000"
#: SentencePiece's kinds of pieces and of models.
_NORMAL, _USER_DEFINED = 1, 4
_UNIGRAM, _BPE = 1, 2
_RANDOM_TEXTS = 2000


def is_converted_here(tokenizer: Any) -> bool:
    """Whether ``converted`` knows the kind of ``tokenizer``."""
    return type(tokenizer).__name__ in ("MarianTokenizer", "M2M100Tokenizer")


def converted(tokenizer: Any, source: str) -> Any:
    """A ``PreTrainedTokenizerFast`` with the ids of ``tokenizer`` in the way that sources are encoded.

    ``source`` names the checkpoint. Raises ``InvalidInputError`` where the ids of a text would differ.
    """
    from transformers import PreTrainedTokenizerFast

    is_marian = type(tokenizer).__name__ == "MarianTokenizer"
    if is_marian and tokenizer.separate_vocabs:
        raise _no_equal(source, "its source and its target have vocabularies of their own")
    proto = _model(tokenizer.spm_files[0] if is_marian else tokenizer.spm_file)
    built = _built(tokenizer, proto, source)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=built,
        model_max_length=tokenizer.model_max_length,
        **{name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)},
    )
    fast.clean_up_tokenization_spaces = False
    for text in _corpus(tokenizer, proto):
        ids = tokenizer(text)["input_ids"]
        if fast(text)["input_ids"] != ids:
            raise _no_equal(source, f"the text {text[:40]!r} would have other token ids")
        if not is_marian or _SPACE not in text:
            want = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if fast.decode(ids, skip_special_tokens=True).strip() != want.strip():
                raise _no_equal(source, f"the tokens of {text[:40]!r} would have another text")
    return fast


def _no_equal(source: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"the tokenizer of {source} has no tokenizer.json, and none that is equal can be made of its SentencePiece model: {why}; "
        "give a checkpoint with a tokenizer.json by --tokenizer"
    )


def _model(path: str) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is read with the packages sentencepiece and protobuf, which are not installed; pip install "
            "'tt-edge[sentencepiece]'"
        ) from error
    made: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    proto = made.ModelProto()
    with open(path, "rb") as file:
        proto.ParseFromString(file.read())
    return proto


def _built(tokenizer: Any, proto: Any, source: str) -> Tokenizer:
    ids: dict[str, int] = dict(tokenizer.encoder)
    codes = {ids[code]: code for code in getattr(tokenizer, "supported_language_codes", ())}  # Marian's, such as >>fr<<
    added = {**codes, **getattr(tokenizer, "id_to_lang_token", {}), **tokenizer.added_tokens_decoder}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type in (_NORMAL, _USER_DEFINED)}
    if missing := sorted(scores.keys() - ids.keys()):
        raise _no_equal(source, f"vocab.json lacks its piece {missing[0]!r}")
    size = max([*ids.values(), *added]) + 1
    names = {index: name for name, index in ids.items()} | {index: str(token) for index, token in added.items()}
    kind, unknown = proto.trainer_spec.model_type, tokenizer.unk_token
    # Added tokens are found before the model sees a text.
    shown = [name if (name := names.get(i, f"<{i}>")) in scores or i in added else _HIDDEN + name for i in range(size)]
    if kind == _UNIGRAM:
        least = min(scores.values())
        model: Any = models.Unigram([(name, scores.get(name, least)) for name in shown], ids[unknown], False)
    elif kind == _BPE:
        vocabulary = {name: index for index, name in enumerate(shown)}
        model = models.BPE(vocabulary, _merges(scores), unk_token=unknown, fuse_unk=True)
    else:
        raise _no_equal(source, "it is neither a unigram nor a BPE model")
    built = Tokenizer(model)
    spec = proto.normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        built.normalizer = normalizers.Sequence(steps)
    prefix = "always" if spec.add_dummy_prefix else "never"
    built.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=prefix, split=False)
    built.decoder = decoders.Sequence(
        [decoders.Replace(_HIDDEN, ""), decoders.Replace(_SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    marked = tokenizer.build_inputs_with_special_tokens([-1])
    before, after = marked[: marked.index(-1)], marked[marked.index(-1) + 1 :]
    around = [(names[index], index) for index in dict.fromkeys([*before, *after])]
    template = [*(names[index] for index in before), "$A", *(names[index] for index in after)]
    built.post_processor = processors.TemplateProcessing(" ".join(template), special_tokens=around)
    special = set(tokenizer.all_special_tokens)
    for token in map(str, added.values()):
        is_special = token in special
        add = built.add_special_tokens if is_special else built.add_tokens
        add([AddedToken(token, normalized=False, special=is_special)])
    return built


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, the best pieces first."""
    order = sorted(scores, key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in order
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _corpus(tokenizer: Any, proto: Any) -> Sequence[str]:
    generator = random.Random(0)
    pieces = [piece.piece.replace(_SPACE, " ") for piece in proto.pieces if piece.type == _NORMAL]
    made = ["".join(generator.choices(pieces, k=generator.randint(1, 12))) for _ in range(_RANDOM_TEXTS)]
    special = [f"{token} {ODD_TEXTS[0]}" for token in tokenizer.all_special_tokens[:40]]
    return [*ODD_TEXTS, *made, *special]
