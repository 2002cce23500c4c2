# shellcheck shell=bash
# Functions for the scripts of this folder, which source this file. Each script first sets `usage`,
# the text of its usage line.

: "${usage:?}"
dry_run=no

fail_usage() {
  printf '%s\n' "${0##*/}: $1" "usage: ${0##*/} $usage" >&2
  exit 2
}

# Handles --dry-run and --help in the arguments before --. The other arguments before -- go to
# `arguments`, and the arguments after -- to `passed_on`.
# shellcheck disable=SC2034  # for the scripts that source this
parse_arguments() {
  arguments=()
  passed_on=()
  while (($#)); do
    case $1 in
      --dry-run) dry_run=yes ;;
      -h | --help)
        printf '%s\n' "usage: ${0##*/} $usage"
        exit 0
        ;;
      --)
        shift
        passed_on=("$@")
        return
        ;;
      -*) fail_usage "unknown option $1; flags of the command come after --" ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
}

# Ends the script if the variable $1, which has the same name in the usage line, has no value.
need() {
  [[ -n ${!1:-} ]] || fail_usage "$1 is not set"
}

# Prints words as one line that a shell reads as the same words.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# Runs a command, or with --dry-run prints it.
run() {
  if [[ $dry_run == yes ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# Sets gin_search_paths to the folders that hold T5X and Flaxformer, and to the folders of the
# installed gin files for T5X. Set T5X_DIR and FLAXFORMER_DIR if Python does not find the first two.
find_gin_files() {
  local t5x flaxformer ours
  t5x=${T5X_DIR:-$(folder_of t5x)}
  flaxformer=${FLAXFORMER_DIR:-$(folder_of flaxformer)}
  ours=$("${PYTHON:-python3}" -m prompt_tuning_core gin-path --engine t5x) || exit
  # shellcheck disable=SC2034  # for the scripts that source this
  gin_search_paths=$t5x,$flaxformer,$ours
}

# The commits of T5X, Flaxformer, airio and jestimator that the tests ran with, as in docs/t5x.md.
# shellcheck disable=SC2034  # for the scripts that source this
t5x_commits=(
  cc342d419ec3e3e9c4bf1df33c82330cafdc1e16
  399ea3a85e9807ada653fd0de1a9de627eb0acde
  69897df7d9a427b947a9f7bb4164c7782b43e601
  326824a477feef6d92e6f44175000907a72899ca
)

# Clones T5X, Flaxformer, airio and jestimator into a folder, each at a commit.
clone_t5x() {
  local folder=$1 repository
  shift
  for repository in google-research/t5x google/flaxformer google/airio google-research/jestimator; do
    run git clone --quiet "https://github.com/$repository" "$folder/${repository#*/}"
    run git -C "$folder/${repository#*/}" checkout --quiet "$1"
    shift
  done
}

folder_of() {
  local package
  package=$("${PYTHON:-python3}" -m prompt_tuning_core find-module "$1") || exit
  dirname "$package"
}
