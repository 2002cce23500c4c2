#!/usr/bin/env bash
# Clones T5X, and its requirements that are not on PyPI, into a folder. It takes the commits that
# this project is tested with, or, with `heads`, the newest commits.
set -euo pipefail
usage='[--dry-run] FOLDER [tested|heads]'
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_arguments "$@"
folder=${arguments[0]:-}
need folder
case ${arguments[1]:-tested} in
  tested) clone_t5x "$folder" "${t5x_commits[@]}" ;;
  heads) clone_t5x "$folder" HEAD HEAD HEAD HEAD ;;
  *) fail_usage "unknown commits ${arguments[1]}" ;;
esac
