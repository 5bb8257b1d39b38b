#!/bin/sh
# make.sh COMMIT FILE: what a release keeps on one machine, as FILE, a .tar.xz: MLflow's store with a champion and a refused
# model, and the database of Prefect's temporary server. The tests open it with the code and the packages of today.
set -eu
commit=$1 file=$(realpath "$2") root=$(git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet "$root" "$work/checkout"
cd "$work/checkout"
git checkout --quiet "$commit"
make setup
export DAE_HOME="$work/home" PREFECT_HOME="$work/home/.dae/prefect"
mkdir -p "$PREFECT_HOME"
small="--config configs/smoke.yaml --set model.width=8 --set model.deep_width=16"
.venv/bin/dae train $small
.venv/bin/dae train $small --set train.epochs=1 --set gate.max_val_mse=0.0001 || test $? = 10
# Pictures are most of the size, and nothing reads them.
tar --create --xz --owner 0 --group 0 --file "$file" --directory "$work/home" --exclude figures --exclude __pycache__ --exclude '*.lock' \
  mlruns .dae/prefect/prefect.db
