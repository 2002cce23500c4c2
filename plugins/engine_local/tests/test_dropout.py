import jax
import numpy as np
import pytest

from prompt_tuning_engine_local.model.dropout import NO_DROPOUT, Dropout


def test_zeroes_the_rate_and_scales_the_rest():
    dropped = np.asarray(Dropout(0.3, jax.random.key(0))(np.ones((50, 1, 2000), np.float32)))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.01)


def test_positions_share_a_mask_and_nothing_else_does():
    dropout = Dropout(0.5, jax.random.key(0))
    places = [np.asarray(dropout(np.ones((2, 3, 64), np.float32))) for _ in range(200)]
    assert all((place == place[:, :1]).all() for place in places)
    masks = {row.tobytes() for place in places for row in place[:, 0] > 0}
    assert len(masks) == 2 * len(places)


def test_follows_from_the_key():
    x = np.ones((2, 3, 64), np.float32)
    first, again, other = (Dropout(0.5, jax.random.key(seed))(x) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("dropout", [NO_DROPOUT, Dropout(0.5), Dropout(0.0, jax.random.key(0))])
def test_without_a_key_or_a_rate_nothing_changes(dropout):
    x = np.ones((2, 3, 4), np.float32)
    assert dropout(x) is x
