#!/usr/bin/env bash
# Evaluates a prompt for SST-2 over T5 1.1 base, LM-adapted, by T5X.
# EVAL_DIR is the folder for the metrics and predictions, and TFDS_DATA_DIR the folder in which
# TensorFlow Datasets keeps SST-2. Both may be in a bucket (gs://…). PROMPT_FILE is the prompt, for
# example one that sst2_demo.sh trained. Its default is the prompt that the reference implementation
# released; fetch that prompt first (docs/released.md). Give all three as arguments or as variables
# of these names. Flags of t5x.eval may follow after --. Other variables:
#
#   PRETRAINED_MODEL   the frozen model's checkpoint
#   T5X_DIR, FLAXFORMER_DIR, PYTHON   see common.sh
set -euo pipefail
usage='[--dry-run] EVAL_DIR TFDS_DATA_DIR [PROMPT_FILE] [-- FLAG...]'
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_arguments "$@"
EVAL_DIR=${arguments[0]:-${EVAL_DIR:-}}
TFDS_DATA_DIR=${arguments[1]:-${TFDS_DATA_DIR:-}}
PROMPT_FILE=${arguments[2]:-${PROMPT_FILE:-t5_1_1_lm100k_base/sst2}}
need EVAL_DIR
need TFDS_DATA_DIR
((${#arguments[@]} <= 3)) || fail_usage "more than three arguments: ${arguments[*]:3}"
PRETRAINED_MODEL=${PRETRAINED_MODEL:-gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_base/checkpoint_1100000}
find_gin_files

run "${PYTHON:-python3}" -m t5x.eval \
  --gin_search_paths="$gin_search_paths" \
  --gin_file=models/t5_1_1_base_prompt.gin \
  --gin_file=runs/prompt_eval.gin \
  --gin.MIXTURE_OR_TASK_NAME="'taskless_glue_sst2_v200_examples'" \
  --gin.MIXTURE_OR_TASK_MODULE="'prompt_tuning_tasks_glue.glue'" \
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 8}" \
  --gin.CHECKPOINT_PATH="'$PRETRAINED_MODEL'" \
  --gin.EVAL_OUTPUT_DIR="'$EVAL_DIR'" \
  --gin.utils.DatasetConfig.split="'validation'" \
  --gin.utils.DatasetConfig.batch_size=128 \
  --gin.USE_CACHED_TASKS=False \
  --gin.PROMPT_FILE="'$PROMPT_FILE'" \
  --tfds_data_dir="$TFDS_DATA_DIR" \
  ${passed_on[@]+"${passed_on[@]}"}
