#!/usr/bin/env bash
# Installs everything for T5X on the TPU VM that it is started on, from the clone that it is in.
#
# It makes an environment of Python 3.12 in ENVIRONMENT, clones T5X and what T5X needs that is not on
# PyPI beside it, at the commits that this project is tested with, and puts all of them on its path.
# With arguments, a commit each, others. To work in it: source ENVIRONMENT/bin/activate.
set -euo pipefail
usage='[--dry-run] [ENVIRONMENT [T5X_COMMIT [FLAXFORMER_COMMIT]]]'
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_arguments "$@"
((${#arguments[@]} <= 3)) || fail_usage "more than three arguments: ${arguments[*]:3}"
environment=${arguments[0]:-$HOME/prompt-tuning-env}
t5x_commits[0]=${arguments[1]:-${t5x_commits[0]}}
t5x_commits[1]=${arguments[2]:-${t5x_commits[1]}}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The Python of a TPU VM is older than 3.11; uv brings another.
run "${PYTHON:-python3}" -m pip install --user --quiet uv
run "${PYTHON:-python3}" -m uv venv --quiet --python 3.12 "$environment"
clone_t5x "$environment/src" "${t5x_commits[@]}"
plugins=()
for plugin in "$root"/configs/ "$root"/libraries/*/ "$root"/plugins/*/; do
  plugins+=("${plugin%/}")
done
run "${PYTHON:-python3}" -m uv pip install --quiet --python "$environment/bin/python" \
  'jax[tpu]>=0.12' 'seqio>=0.0.20' 'tensorflow>=2.21' \
  aqtp cached_property chex clu fiddle tensorboard \
  "$root" "${plugins[@]}"
# By a .pth file rather than pip, which would replace JAX and Flax by what their setup.py asks for.
run "$environment/bin/python" -c '
import sys, sysconfig
from pathlib import Path

folders = "".join(f"{folder}\n" for folder in sys.argv[1:])
Path(sysconfig.get_path("purelib"), "t5x_sources.pth").write_text(folders)
' "$environment"/src/{t5x,flaxformer,airio,jestimator}
