#!/usr/bin/env bash
# Creates a slice of a TPU pod, and prepares and starts a run on all of its workers.
#
#   create                make the slice
#   install URL [BRANCH]  clone this project from URL on every worker and install it with T5X
#   copy FILE…            copy files to every worker's home
#   run COMMAND [WORD…]   run a command on every worker, in the clone and its environment; options
#                         of the command come after --
#   kill                  end processes that still hold a TPU, for example after an error of one
#                         worker
#   delete                delete the slice
#
# Variables:
#
#   TPU_NAME, ZONE     the slice and its zone
#   ACCELERATOR_TYPE   for create; default: v3-32, which is four workers of eight cores
#   RUNTIME_VERSION    for create; default: tpu-ubuntu2204-base, which is right for a v4 and older
#
# For example, once `gcloud auth login` and `ssh-add ~/.ssh/google_compute_engine` are done:
#
#   export TPU_NAME=my-slice ZONE=europe-west4-a
#   scripts/tpu_pod.sh create
#   scripts/tpu_pod.sh install https://github.com/me/prompt-tuning-core
#   scripts/tpu_pod.sh run scripts/sst2_demo_xxl.sh gs://my-bucket/sst2 gs://my-bucket/tfds
#   scripts/tpu_pod.sh delete
set -euo pipefail
usage='[--dry-run] create|install URL [BRANCH]|copy FILE...|run COMMAND...|kill|delete'
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tpu_vm() {
  local action=$1
  shift
  run gcloud compute tpus tpu-vm "$action" "$@" --zone="$ZONE"
}

on_all_workers() {
  tpu_vm ssh "$TPU_NAME" --worker=all --command="$1"
}

parse_arguments "$@"
((${#arguments[@]})) || fail_usage 'no command is given'
words=("${arguments[@]:1}" ${passed_on[@]+"${passed_on[@]}"})
need TPU_NAME
need ZONE

case ${arguments[0]} in
  create)
    ((${#words[@]} == 0)) || fail_usage 'create takes no arguments'
    tpu_vm create "$TPU_NAME" \
      --accelerator-type="${ACCELERATOR_TYPE:-v3-32}" \
      --version="${RUNTIME_VERSION:-tpu-ubuntu2204-base}"
    ;;
  install)
    ((${#words[@]} == 1 || ${#words[@]} == 2)) || fail_usage 'install takes URL and maybe BRANCH'
    branch=${words[1]:+$(quoted "--branch=${words[1]}") }
    on_all_workers "git clone --quiet $branch$(quoted "${words[0]}") prompt-tuning-core && prompt-tuning-core/scripts/tpu_vm_install.sh"
    ;;
  copy)
    ((${#words[@]})) || fail_usage 'copy takes the files to copy'
    tpu_vm scp "${words[@]}" "$TPU_NAME:" --worker=all
    ;;
  run)
    ((${#words[@]})) || fail_usage 'run takes the command to run'
    # shellcheck disable=SC2016  # the workers' home, not this machine's
    on_all_workers 'source "$HOME/prompt-tuning-env/bin/activate" && cd prompt-tuning-core && '"$(quoted "${words[@]}")"
    ;;
  kill)
    ((${#words[@]} == 0)) || fail_usage 'kill takes no arguments'
    # TPUs are /dev/accel* up to v4 and /dev/vfio/* from v5 on.
    on_all_workers 'sudo lsof -t /dev/accel* /dev/vfio/* 2>/dev/null | sort -u | xargs --no-run-if-empty sudo kill -9'
    ;;
  delete)
    ((${#words[@]} == 0)) || fail_usage 'delete takes no arguments'
    tpu_vm delete "$TPU_NAME"
    ;;
  *) fail_usage "unknown command ${arguments[0]}" ;;
esac
