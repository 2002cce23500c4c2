"""Evaluates a prompt on a task's split, and answers the texts of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import jax
import rich.console

import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import find_task
from prompt_tuning_engine_local.data.engine_task import EngineTask, Reading
from prompt_tuning_engine_local.model.prompt_of_each import PromptChoice
from prompt_tuning_engine_local.model.prompted_model import Params
from prompt_tuning_engine_local.runs import (
    ensembles,
    evaluation_files,
    preparing,
    reporting,
    several_prompts,
    state_store,
)
from prompt_tuning_engine_local.runs.evaluation import Evaluation, OnePrompt, Predictor, metrics_of
from prompt_tuning_engine_local.runs.options import EvaluationOptions, InferenceOptions, Options
from prompt_tuning_engine_local.runs.several_prompts import SeveralPrompts
from prompt_tuning_files import trained_prompts
from prompt_tuning_tasks import Example, Mixture, TextTask
from prompt_tuning_tasks.feature_lengths import FeatureLengths


def evaluate(options: EvaluationOptions) -> dict[str, float]:
    """Scores a prompt on a split, and writes the metrics and the predictions.

    The files are `TASK-SPLIT-metrics.json` and `TASK-SPLIT-predictions.jsonl`, for each task of a
    mixture. PROMPT makes the prompt; with `prompts/from_file.gin`, it is the prompt in PROMPT_FILE.
    With PROMPT_FILES, each example names its prompt (PROMPT_COLUMN), or all prompts are used
    (`ensembles.evaluate`).

    Returns:
      The metrics by name; for a mixture, the names are `TASK/METRIC`.

    Raises:
      PromptTuningError: If an option cannot be used; nothing is written then.
    """
    hook = preparing.load_hooks(options)
    task = find_task.find(options.task_name, options.mixture_or_task_module)
    saved = None if options.prompt_file is None else trained_prompts.find(options.prompt_file)
    components = task.components(options.split)
    output = _usable(options.output_dir, "EVAL")
    several = SeveralPrompts.of(options)
    reading = Reading(
        options.model.vocabulary,
        FeatureLengths.of(options.task_feature_lengths),
        options.strict_lengths,
        columns=[] if options.prompt_column is None else [options.prompt_column],
    )
    splits = [component.read(options.split, reading) for component in components]
    # Before the model is read, since an example may name a missing prompt.
    choices = [_choice(several, split.examples, options.prompt_column) for split in splits]
    loaded, prompt = _load(options, several)
    results = [
        ensembles.evaluate(loaded.predictor, split, several)
        if several is not None and choice is None
        else _with_columns(
            loaded.predictor.evaluate_prepared(split, prompt if choice is None else choice)
        )
        for split, choice in zip(splits, choices, strict=True)
    ]
    metrics = metrics_of(task, results)
    step = None if saved is None else saved.step
    hook.evaluated(step=loaded.frozen.step if step is None else step, metrics=metrics)
    for result in results:
        evaluation_files.write(output, options.split, result)
        _show(options.split, result)
    return metrics


def infer(options: InferenceOptions) -> Path:
    """Answers each text of a file; writes a line for each to `FILE-predictions.jsonl`, in order.

    A line has `inputs`, `prediction`, and the columns of the row that the template does not use.
    With PROMPT_FILES and no PROMPT_COLUMN, `prediction` is the most frequent answer, and
    `predictions` has the answer of each prompt by name. With NUM_ANSWERS, `predictions` is the list
    of the best answers, each with `text` and `score`. Answers are written as they are made. Until
    the last answer, the file is named `FILE-predictions.jsonl.partial`.

    See `prompt_tuning_tasks.read_inputs` for the forms of the file. Without a task, the input is
    the text itself, or the column "inputs" of a row.

    Returns:
      The file written.

    Raises:
      PromptTuningError: If an option cannot be used; nothing is written then.
    """
    preparing.load_hooks(options)
    task = TextTask("infer", {})
    if options.mixture_or_task_name is not None:
        task = _with_a_template(find_task.find(options.task_name, options.mixture_or_task_module))
    source = Path(options.input_file).expanduser()
    texts = tasks.read_inputs(source, task)
    _check_columns(texts)
    # With its ending, since a.tsv and a.jsonl have different answers.
    target = _usable(options.output_dir, "INFER") / f"{source.name}-predictions.jsonl"
    several = SeveralPrompts.of(options)
    choice = _choice(several, texts, options.prompt_column)
    loaded, prompt = _load(options, several)
    if several is not None and choice is None:
        parts = ensembles.answers_in_parts(loaded.predictor, texts, several, str(source))
    else:
        parts = _answers_in_parts(
            loaded.predictor, texts, choice or prompt, str(source), options.num_answers
        )
    replaces = target.exists()
    with _growing(target) as file:
        answered = iter(texts)
        for part in parts:
            file.writelines(
                evaluation_files.line({**text.columns, "inputs": text.inputs, **answer})
                for answer, text in zip(part, answered, strict=False)
            )
            file.flush()
    rich.console.Console().print(
        f"{len(texts)} predictions: {target}{' (replaced)' if replaces else ''}",
        highlight=False,
        soft_wrap=True,
    )
    return target


def _answers_in_parts(
    predictor: Predictor, texts: Sequence[Example], prompt: OnePrompt, what: str, n: int
) -> Iterator[list[dict[str, object]]]:
    """Returns the answers as columns, a few batches at a time; for several answers, also scores."""
    if n == 1:
        one = predictor.predict_in_parts(texts, prompt, what)
        return ([{"prediction": answer} for answer in part] for part in one)
    return (
        [
            {"prediction": found[0].text, "predictions": [answer._asdict() for answer in found]}
            for found in part
        ]
        for part in predictor.ranked_in_parts(texts, prompt, n, what)
    )


def _check_columns(texts: Iterable[Example]) -> None:
    """Checks that the columns of each row can be written next to its answer.

    Raises:
      InputError: If a column has the name of the answer, or holds a text that cannot be written.
    """
    for text in texts:
        for column in ("inputs", "prediction", "predictions"):
            if column in text.columns:
                raise InputError(
                    f"INFER_INPUT_FILE {text.place}: a line of the answers has a {column!r} of its "
                    "own; rename this column"
                )
        try:
            evaluation_files.line(text.columns)
        except UnicodeEncodeError as error:
            raise InputError(
                f"INFER_INPUT_FILE {text.place}: a column holds half of a surrogate pair, which is "
                "no text"
            ) from error


def _usable(directory: str, command: str) -> Path:
    """Returns the output directory after a check that it can be written to.

    Raises:
      InputError: If it cannot be written to; nothing has been decoded yet.
    """
    path = Path(directory).expanduser()
    if not state_store.is_writable(path):
        raise InputError(
            f"{command}_OUTPUT_DIR {path} is not a directory that can be written to; give another"
        )
    return path


@contextlib.contextmanager
def _growing(target: Path) -> Iterator[IO[bytes]]:
    """Opens a file that gets the name of `target` when it is complete.

    If the block ends early, its text stays in `NAME.partial`.

    Raises:
      InputError: If it cannot be written.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); the answers until then are "
            f"in {partial}; make room, and start again"
        ) from error


def _with_a_template(task: EngineTask) -> TextTask:
    """Returns the task after a check that it has an input template."""
    if isinstance(task.source, TextTask | Mixture):
        return tasks.with_a_template(task.source)
    raise InputError(
        f"MIXTURE_OR_TASK_NAME {task.name!r} is seqio's, whose preprocessors make whole examples "
        "and have no input template; predict for one of its splits with `prompt-tuning eval`, or "
        "give the texts as the model is to read them, with MIXTURE_OR_TASK_NAME = None"
    )


def _choice(
    several: SeveralPrompts | None, examples: Sequence[Example], column: str | None
) -> PromptChoice | None:
    """Returns the prompt of each example, if a column names it."""
    return None if several is None or column is None else several.named_by(examples, column)


def _with_columns(result: Evaluation) -> Evaluation:
    """Adds the kept columns of the examples, such as the prompt's name, to the answers."""
    return dataclasses.replace(result, columns=[example.columns for example in result.examples])


def _load(
    options: Options, several: SeveralPrompts | None
) -> tuple[preparing.Loaded, Params | None]:
    """Reads the frozen model, and makes the prompt if there is one for all examples."""
    placement = preparing.place(options)
    if several is not None:
        model = several_prompts.model_for(options.model)
        return preparing.load(dataclasses.replace(options, model=model), placement), None
    loaded = preparing.load(options, placement)
    # A prompt from a file ignores the key. Any other initializer gives an untrained prompt.
    prompt = options.model.init_prompt(jax.random.key(0))
    return loaded, placement.everywhere(prompt)


def _show(split: str, result: Evaluation) -> None:
    """Prints the metrics of one task."""
    rich.console.Console().print(
        reporting.table(
            "", [f"{result.task_name}, {split}", *result.metrics],
            [[f"{len(result.examples)} examples", *(f"{v:.4f}" for v in result.metrics.values())]],
        )
    )  # fmt: skip
