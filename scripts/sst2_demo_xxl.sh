#!/usr/bin/env bash
# Trains a prompt for SST-2 with T5 1.1 XXL, LM-adapted, by T5X, on a slice of a TPU pod.
# Start it on every worker of the slice; tpu_pod.sh does that. MODEL_DIR is the folder for
# checkpoints and prompts, and TFDS_DATA_DIR the folder in which TensorFlow Datasets keeps SST-2.
# Both are in a bucket (gs://…), which all workers can read. Give them as arguments or as variables
# of these names. Flags of t5x.train may follow after --. Other variables:
#
#   PRETRAINED_MODEL   the frozen model's checkpoint
#   MODEL_PARALLEL_SUBMESH   the devices that share one copy of the model: their number along each of
#                      the three axes of the slice, and the number of cores of each chip; default:
#                      all of a v3-32, (4, 4, 1, 2)
#   T5X_DIR, FLAXFORMER_DIR, PYTHON   see common.sh
set -euo pipefail
usage='[--dry-run] MODEL_DIR TFDS_DATA_DIR [-- FLAG...]'
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_arguments "$@"
MODEL_DIR=${arguments[0]:-${MODEL_DIR:-}}
TFDS_DATA_DIR=${arguments[1]:-${TFDS_DATA_DIR:-}}
need MODEL_DIR
need TFDS_DATA_DIR
((${#arguments[@]} <= 2)) || fail_usage "more than two arguments: ${arguments[*]:2}"
PRETRAINED_MODEL=${PRETRAINED_MODEL:-gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_xxl/checkpoint_1100000}
MODEL_PARALLEL_SUBMESH=${MODEL_PARALLEL_SUBMESH:-(4, 4, 1, 2)}
find_gin_files

run "${PYTHON:-python3}" -m t5x.train \
  --gin_search_paths="$gin_search_paths" \
  --gin_file=models/t5_1_1_xxl_prompt.gin \
  --gin_file=prompts/from_class_labels.gin \
  --gin_file=runs/prompt_finetune.gin \
  --gin.CLASS_LABELS="['positive', 'negative']" \
  --gin.MODEL_DIR="'$MODEL_DIR'" \
  --gin.MIXTURE_OR_TASK_NAME="'taskless_glue_sst2_v200_examples'" \
  --gin.MIXTURE_OR_TASK_MODULE="'prompt_tuning_tasks_glue.glue'" \
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 8}" \
  --gin.INITIAL_CHECKPOINT_PATH="'$PRETRAINED_MODEL'" \
  --gin.TRAIN_STEPS=1_150_000 \
  --gin.USE_CACHED_TASKS=False \
  --gin.BATCH_SIZE=32 \
  --gin.partitioning.PjitPartitioner.model_parallel_submesh="$MODEL_PARALLEL_SUBMESH" \
  --tfds_data_dir="$TFDS_DATA_DIR" \
  ${passed_on[@]+"${passed_on[@]}"}
