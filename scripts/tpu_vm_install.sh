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
t5x=${arguments[1]:-cc342d419ec3e3e9c4bf1df33c82330cafdc1e16}
flaxformer=${arguments[2]:-399ea3a85e9807ada653fd0de1a9de627eb0acde}
airio=69897df7d9a427b947a9f7bb4164c7782b43e601
jestimator=326824a477feef6d92e6f44175000907a72899ca
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

clone() {
  run git clone --quiet "https://github.com/$1" "$environment/src/${1#*/}"
  run git -C "$environment/src/${1#*/}" checkout --quiet "$2"
}

# The Python of a TPU VM is older than 3.11; uv brings another.
run "${PYTHON:-python3}" -m pip install --user --quiet uv
run "${PYTHON:-python3}" -m uv venv --quiet --python 3.12 "$environment"
clone google-research/t5x "$t5x"
clone google/flaxformer "$flaxformer"
clone google/airio "$airio"
clone google-research/jestimator "$jestimator"
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
