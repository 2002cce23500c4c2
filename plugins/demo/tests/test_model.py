"""The model that the distribution carries is the one that the recipe makes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning_demo import model, prefixes, pretrain, reviews
from prompt_tuning_demo.recipe import EXTRA_IDS, Recipe
from prompt_tuning_engine_local.model import model_files, prompted_model
from prompt_tuning_engine_local.model.network import T5
from prompt_tuning_files.vocabularies import SentencePieceVocabulary


def _parameters(recipe: Recipe) -> dict[str, jax.ShapeDtypeStruct]:
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    network = T5(pretrain.network_config(recipe))
    variables = jax.eval_shape(network.init, jax.random.key(0), token, token, token)
    return prompted_model.flatten(variables["params"])


def test_weights_are_those_of_the_recipe_s_network() -> None:
    path = Path(model.checkpoint_path())
    assert path.stat().st_size <= 10_000_000
    frozen = model_files.load(path, _parameters(Recipe()))
    assert frozen.step == 0
    assert all(np.isfinite(value).all() for value in frozen.params.values())


def test_description_tells_how_it_was_made() -> None:
    description = json.loads(
        Path(model.checkpoint_path()).with_name(pretrain.DESCRIPTION_FILE).read_text()
    )
    assert description["recipe"] == json.loads(json.dumps(dataclasses.asdict(Recipe())))
    weights = safetensors.numpy.load_file(model.checkpoint_path())
    assert description["parameters"] == sum(value.size for value in weights.values())
    told = description["validation_exact_match_by_prefix"]
    assert all(told[prefix] > 0.7 for prefix in prefixes.SENTIMENT)
    assert told[""] < 0.3


def test_vocabulary_has_t5_s_layout() -> None:
    vocabulary = SentencePieceVocabulary(model.vocabulary_path())
    pieces = vocabulary.tokenizer
    assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id(), pieces.bos_id()) == (0, 1, 2, -1)
    assert vocabulary.vocab_size == Recipe().pieces + EXTRA_IDS
    assert pieces.PieceToId("▁<extra_id_0>") == vocabulary.vocab_size - 1
    assert pieces.PieceToId("▁<extra_id_99>") == Recipe().pieces


@pytest.mark.parametrize("wording", prefixes.WORDINGS, ids=lambda wording: wording.prefix)
def test_answers_are_one_piece_each(wording: prefixes.Wording) -> None:
    vocabulary = SentencePieceVocabulary(model.vocabulary_path())
    for answer in (wording.positive, wording.negative):
        ids = vocabulary.encode(answer)
        assert len(ids) == 1
        assert vocabulary.decode(ids) == answer


@pytest.mark.slow
def test_a_small_recipe_makes_the_same_files_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = reviews.read_corpus()
    # Of a quarter of the texts, in which each answer is still one piece.
    texts = {split: some[::4] for split, some in corpus.reviews.items()}
    plots = {split: some[::4] for split, some in corpus.plots.items()}
    few = dataclasses.replace(corpus, reviews=texts, plots=plots)
    monkeypatch.setattr(reviews, "read_corpus", lambda: few)
    recipe = Recipe(
        pieces=1000,
        emb_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=16,
        num_encoder_layers=1,
        steps=12,
        warmup_steps=4,
        start_steps=6,
        told_batch=8,
        told_lengths=(32,),
        bare_batch=4,
    )
    for name in ("a", "b"):
        pretrain.pretrain(recipe, tmp_path / name)
    made = {path.name for path in (tmp_path / "a").iterdir()}
    assert made == {"model.safetensors", "spiece.model", "model.json"}
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    model_files.load(tmp_path / "a", _parameters(recipe))
