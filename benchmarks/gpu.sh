#!/usr/bin/env bash
# All that a GPU should be asked, in one call of under ten minutes, without a network:
#
#   RECALIGN_DATA=DIR [RECALIGN_PARITY=DIR] bash benchmarks/gpu.sh [--device cuda|cpu] [--quick]
#
# parity with the reference (where RECALIGN_PARITY holds its files), the tests of the fast paths with this machine's torch
# (on its CPU), throughput, time and memory by the size of the catalogue, one HSTU row of ML-1M and a short OneRec there
# (where RECALIGN_DATA has it). Every step is a process; what it says is kept in a folder that is named at the end, with
# one table. W&B and peers' libraries are not needed.
set -u
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" WANDB_MODE=disabled
device=cuda quick=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --quick) quick=1; shift ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
done
python=${PYTHON:-python}
out=$(mktemp -d)
failed=0
rows=()

# step NAME COMMAND...: run it, keep what it says, note how it ended and how long it took
step() {
  local name=$1 began=$SECONDS result=ok
  shift
  timeout 300 "$@" >"$out/$name.log" 2>&1 || { result="FAILED ($?)"; failed=1; }
  rows+=("| $name | $result | $((SECONDS - began)) |")
  echo "$name: $result" >&2
}
skip() { rows+=("| $1 | left out: $2 | - |"); }

case $device in cuda) accelerator=gpu ;; *) accelerator=cpu ;; esac
"$python" - "$device" >"$out/machine.log" <<'PY' || exit 1
import sys

import torch

if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("there is no GPU that torch can use")
card = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "CPU"
print(f"{card}, torch {torch.__version__}, Python {sys.version.split()[0]}")
PY

parity=("${RECALIGN_PARITY:-none}"/*.safetensors)
if [ -e "${parity[0]}" ]; then
  step parity "$python" -m benchmarks.parity.run "${parity[@]}" --device "$device"
else
  skip parity "no RECALIGN_PARITY"
fi

if "$python" -c "import pytest, hypothesis, xdist" 2>/dev/null; then
  step tests-on-cpu "$python" -m pytest -n 0 tests/nn tests/recommender/test_devices.py
else
  skip tests "no pytest"
fi

data=${RECALIGN_DATA:-data}
if [ ! -e "$data/ml-1m.zip" ]; then
  skip throughput "no ML-1M under $data"
  skip ml-1m "no ML-1M under $data"
  skip onerec "no ML-1M under $data"
else
  step throughput "$python" -m benchmarks.scale.throughput --accelerator "$accelerator" ${quick:+--turns 1 --seconds 1 --warm-up 1}
  epochs=10
  [ -n "$quick" ] && epochs=1
  words=(--config conf/logs/ml-1m.yaml --run.root "$out/runs" --run.chain ml-1m --trainer.accelerator "$accelerator"
    --trainer.precision bf16-mixed --trainer.enable_progress_bar false)
  [ -n "$quick" ] && words+=(--trainer.limit_train_batches 5 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2
    --trainer.limit_predict_batches 2)
  fit=(--config conf/stages/recommender.yaml "${words[@]}" --trainer.max_epochs "$epochs")
  step ml-1m "$python" -m recalign fit "${fit[@]}"
  step ml-1m-test "$python" -m recalign test "${fit[@]}"
  fit=(--config conf/stages/recommender-onerec.yaml "${words[@]}" --run.name onerec --model.sizes "[128, 32]" --trainer.max_epochs 1)
  step onerec "$python" -m recalign fit "${fit[@]}"
  step onerec-predict "$python" -m recalign predict "${fit[@]}"
fi

step scale "$python" -m benchmarks.scale.run --device "$device" --bf16 ${quick:+--quick --items 2000 10000}

echo
cat "$out/machine.log"
echo
echo "| step | result | seconds |"
echo "|---|---|---|"
printf '%s\n' "${rows[@]}"
echo
grep -h "^|" "$out/scale.log"
echo
grep -h "^|\|^ratio" "$out/throughput.log" 2>/dev/null
echo
[ -e "$out/runs/ml-1m/recommender/seed-0/test.csv" ] && tail -n 2 "$out/runs/ml-1m/recommender/seed-0/test.csv"
echo "what each step said: $out"
exit $failed
