"""A session whose next token follows from the row's whole past, and contracts to go with it."""

from __future__ import annotations

import numpy as np

from tt_edge.config import Limits
from tt_edge.contract import BATCH, SEQUENCE, TWO_PROFILES, IOContract, KVPair, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.runtime.engine.kv_rows import Region
from tt_edge.runtime.engine.session import Feeds, Session

VOCAB = 97


def contract(
    max_batch: int = 3, max_input_len: int = 8, max_seq_len: int = 32, full_logits: bool = False, vocab: int = VOCAB
) -> IOContract:
    cache = (BATCH, 1, max_seq_len, 2)
    return IOContract(
        inputs=(
            TensorSpec("input_ids", DType.INT64, (BATCH, SEQUENCE)),
            TensorSpec("position_ids", DType.INT64, (BATCH, SEQUENCE)),
            TensorSpec("write_indices", DType.INT32, (BATCH,)),
            *([] if full_logits else [TensorSpec("last_token_indices", DType.INT64, (BATCH,))]),
            TensorSpec("past_key_0", DType.FLOAT16, cache),
            TensorSpec("past_value_0", DType.FLOAT16, cache),
        ),
        outputs=(
            TensorSpec("logits", DType.FLOAT32, (BATCH, SEQUENCE, vocab) if full_logits else (BATCH, vocab)),
            TensorSpec("present_key_0", DType.FLOAT16, cache),
            TensorSpec("present_value_0", DType.FLOAT16, cache),
        ),
        limits=Limits(max_batch=max_batch, max_input_len=max_input_len, max_seq_len=max_seq_len),
        phases=TWO_PROFILES,
        kv_cache=(KVPair("past_key_0", "present_key_0"), KVPair("past_value_0", "present_value_0")),
    )


def next_token(past: list[int]) -> int:
    """What the fake model says after ``past``: order and every token matter."""
    state = 7
    for token in past:
        state = (state * 31 + token + 1) % 10007
    return state % VOCAB


def continuation(prompt: list[int], count: int, eos: tuple[int, ...] = ()) -> list[int]:
    """What greedy generation must give, row by row."""
    new: list[int] = []
    while len(new) < count and not (new and new[-1] in eos):
        new.append(next_token(prompt + new))
    return new


class FakeSession(Session):
    """Keeps token ids where a model keeps keys and values, and writes padding too, as TensorRT does."""

    def __init__(self, contract: IOContract) -> None:
        super().__init__(contract)
        self.calls: list[Feeds] = []

    @property
    def word(self) -> str:
        return "invented by a fake"

    def _allocate(self, batch: int) -> None:
        self.tokens = np.full((batch, self.contract.max_seq_len), -1, np.int64)

    def _read_row(self, name: str, region: Region, length: int) -> np.ndarray:
        row = region.offset // (region.runs * region.pitch)
        return np.repeat(self.tokens[row, None, :length, None], region.token_bytes, 2).astype(np.uint8)

    def _write_row(self, name: str, region: Region, data: np.ndarray) -> None:
        row = region.offset // (region.runs * region.pitch)
        self.tokens[row, : data.shape[1]] = data[0, :, 0]

    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        raise NotImplementedError("a fake without images")

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        self.calls.append(feeds)
        ids, write = feeds["input_ids"], feeds["write_indices"]
        batch, width = ids.shape
        logits = np.zeros((batch, width, VOCAB), np.float32)
        for row, tokens in enumerate(self.tokens[rows]):
            tokens[write[row] : write[row] + width] = ids[row]
            for column in range(width):
                past = tokens[: write[row] + column + 1].tolist()
                logits[row, column, next_token(past)] = 1.0
        if "last_token_indices" in feeds:
            return logits[np.arange(batch), feeds["last_token_indices"]]
        return logits
