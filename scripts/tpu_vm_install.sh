#!/usr/bin/env bash
# Installs everything for T5X on this TPU VM, from the clone that this script is in.
# It makes an environment of Python 3.12 in ENVIRONMENT. It clones T5X, and its requirements that
# are not on PyPI, into ENVIRONMENT/src, and puts them on the environment's path. It takes the
# commits that this project is tested with, or the commits in the arguments. To work in the
# environment: source ENVIRONMENT/bin/activate.
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

# The Python of a TPU VM is older than 3.11; uv brings a newer one.
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
# With a .pth file, since pip would replace JAX and Flax by the versions in their setup.py.
run "$environment/bin/python" -c '
import sys, sysconfig
from pathlib import Path

folders = "".join(f"{folder}\n" for folder in sys.argv[1:])
Path(sysconfig.get_path("purelib"), "t5x_sources.pth").write_text(folders)
' "$environment"/src/{t5x,flaxformer,airio,jestimator}
