"""Trains prompts from two seeds for one model, and lets them vote on new sentences."""

import few_reviews

import prompt_tuning_engine_local as prompt_tuning

model = prompt_tuning.load_model("demo", lengths={"inputs": 64, "targets": 4}, batch_size=16)
prompts = [
    prompt_tuning.train(
        model, "few_reviews", 4, length=20, batch_size=16, random_seed=seed, quiet=True
    )
    for seed in (0, 1)
]
prompts.append(prompt_tuning.load_prompt("demo/demo_reviews"))

ensemble = prompt_tuning.Ensemble(prompts)
sentences = [row["text"] for row in few_reviews.few("validation", 4)]
for sentence, answer in zip(sentences, model.generate(sentences, ensemble), strict=True):
    print(f"{answer}: {sentence}")
