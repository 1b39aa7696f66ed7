from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import DecoderConfig, RopeScaling
from model.decoder import Decoder
from model.kv_cache import KVCache, RowCache

CONFIG = DecoderConfig(
    vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_seq_len=16, init_std=0.2
)


STRETCHED = dataclasses.replace(
    CONFIG, qk_norm=True, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=4)
)


@settings(max_examples=40)
@given(
    config=st.sampled_from([CONFIG, STRETCHED]),
    pieces=st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda pieces: sum(pieces) <= 16),
)
def test_cached_equals_uncached_however_the_sequence_is_cut(config: DecoderConfig, pieces: list[int]) -> None:
    torch.manual_seed(0)
    model = Decoder(config)
    tokens_BT = torch.randint(0, 64, (2, sum(pieces)))
    cache = KVCache(config, batch_size=2)
    with torch.no_grad():
        parts = [model(piece, cache=cache) for piece in tokens_BT.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens_BT), atol=1e-4, rtol=1e-4)
    assert cache.length == sum(pieces)


def test_appended_values_come_back_and_memory_stays() -> None:
    cache = KVCache(CONFIG, batch_size=1, max_len=5)
    address = cache.keys_LBKSC.data_ptr()
    first, second = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 2, 8)
    for layer in range(2):
        cache.append(layer, first + layer, -first)
    cache.advance(3)
    keys, values = cache.append(1, second, -second)
    torch.testing.assert_close(keys, torch.cat([first + 1, second], dim=2))
    torch.testing.assert_close(values, torch.cat([-first, -second], dim=2))
    assert cache.keys_LBKSC.data_ptr() == address
    assert cache.length == 3


def test_a_full_cache_refuses_and_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    cache = KVCache(CONFIG, max_len=4)
    with torch.no_grad():
        model(torch.randint(0, 64, (1, 4)), cache=cache)
        before = cache.keys_LBKSC.clone()
        with pytest.raises(ValueError, match="1 more positions do not fit a cache that holds 4 of 4; shorten"):
            model(torch.randint(0, 64, (1, 1)), cache=cache)
    assert cache.length == 4
    assert torch.equal(cache.keys_LBKSC, before)


@pytest.mark.parametrize("max_len", [0, 17])
def test_length_out_of_bounds_is_refused(max_len: int) -> None:
    with pytest.raises(ValueError, match="the model takes 1 to 16"):
        KVCache(CONFIG, max_len=max_len)
    assert KVCache(CONFIG).max_len == KVCache(CONFIG, max_len=16).max_len == 16


def test_documents_and_a_cache_do_not_mix() -> None:
    with pytest.raises(ValueError, match="leave out document_ids_BT, or the cache"):
        Decoder(CONFIG)(
            torch.zeros(1, 2, dtype=torch.long),
            cache=KVCache(CONFIG),
            document_ids_BT=torch.zeros(1, 2, dtype=torch.long),
        )


def test_rows_of_unequal_length_and_the_last_takes_a_free_place() -> None:
    rows = RowCache(CONFIG, max_rows=3, max_len=6)
    filled = {}
    for length in (2, 5, 3):
        key_BKTC = torch.randn(1, 2, length, 8)
        added = rows.added([length])
        for layer in range(2):
            added.append(layer, key_BKTC + layer, -key_BKTC - layer)
        filled[length] = key_BKTC[0]
    assert rows.lengths == [2, 5, 3]
    rows.remove(0)
    assert rows.lengths == [3, 5]
    for row, length in enumerate(rows.lengths):
        assert torch.equal(rows.keys_LRKSC[1, row, :, :length], filled[length] + 1)
        assert torch.equal(rows.values_LRKSC[0, row, :, :length], -filled[length])
    rows.remove(1)
    assert rows.lengths == [3]
    rows.clear(0)
    assert not rows.keys_LRKSC[:, 0].any() and not rows.values_LRKSC[:, 0].any()


def test_places_are_where_keys_and_values_stand() -> None:
    rows = RowCache(CONFIG, max_rows=3, max_len=6)
    rows.vectors.copy_(torch.arange(len(rows.vectors))[:, None])
    for layer, row in ((0, 0), (1, 2)):
        places = rows.places(layer, row)
        assert torch.equal(places[:2].float(), rows.keys_LRKSC[layer, row, :, 0, 0])
        assert torch.equal(places[2:].float(), rows.values_LRKSC[layer, row, :, 0, 0])


@pytest.mark.parametrize("max_rows", [10**12, 10**17])
def test_rows_that_no_memory_holds_are_refused(max_rows: int) -> None:
    with pytest.raises(ValueError, match=f"a cache of {max_rows} rows of .* GB, which are not there; ask for fewer"):
        RowCache(CONFIG, max_rows=max_rows)
