#!/usr/bin/env bash
# Builds an environment that runs the tests marked `t5x`, from checkouts of T5X and what it needs
# that is not on PyPI. The commits that the tests ran with: docs/t5x.md.
set -euo pipefail

readonly usage='usage: tests/t5x_environment.sh [--test] ENVIRONMENT T5X FLAXFORMER AIRIO JESTIMATOR

ENVIRONMENT is the folder to build; what it held before is removed. The others are checkouts of the
repositories of these names, which are read where they are. With --test, the tests are run;
otherwise the command that does so is printed. PYTHON=... names the Python to use: 3.12 and 3.13 have
jax 0.12, and 3.11 has 0.10.'

fail() {
    printf '%s\n' "$1" >&2
    exit 2
}

test=false
if [ "${1:-}" = --test ]; then
    test=true
    shift
fi
case "${1:-}" in -*) set -- ;; esac
[ $# -eq 5 ] || fail "$usage"

environment=$1
shift
checkouts=()
for package in t5x flaxformer airio jestimator; do
    [ -d "$1/$package" ] || fail "$1: no checkout of $package, whose package $package/ is not there"
    checkouts+=("$(cd "$1" && pwd)")
    shift
done
if [ -e "$environment" ] && [ ! -f "$environment/pyvenv.cfg" ]; then
    fail "$environment: exists and is no environment; name a folder to make"
fi
case "$environment" in /*) ;; *) environment=$PWD/$environment ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As in the Makefile: whatever else is active in the shell, Python's own venv and pip bring uv from
# its lock, and uv the rest from theirs.
unset CONDA_PREFIX PYTHONHOME PYTHONPATH UV_PYTHON UV_SYSTEM_PYTHON VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never

python=$(.ci/find-python) || exit
"$python" -m venv --clear "$environment"
bin=$environment/bin
"$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --requirement requirements/installer.lock
"$bin/uv" pip sync --quiet --python "$bin/python" --require-hashes \
    requirements/dev.lock requirements/demo-data.lock

# What the checkouts import and the lock has not; what it has keeps its version.
"$bin/uv" pip install --quiet --python "$bin/python" --constraint requirements/dev.lock \
    aqtp cached_property chex clu fiddle 'seqio>=0.0.20' tensorboard 'tensorflow>=2.21'

projects=(--editable .)
for plugin in configs/ libraries/*/ plugins/*/; do
    projects+=(--editable "$plugin")
done
"$bin/uv" pip install --quiet --python "$bin/python" --no-deps --no-build-isolation "${projects[@]}"
site_packages=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "${checkouts[@]}" >"$site_packages/t5x_checkouts.pth"

command=("$bin/python" -m pytest -m t5x)
if $test; then
    exec "${command[@]}"
fi
printf '%q ' "${command[@]}"
printf '\n'
