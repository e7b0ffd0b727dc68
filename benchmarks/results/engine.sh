#!/usr/bin/env bash
# The figures of docs/engine.md: our engine beside onnxruntime and OpenVINO, one thread each, on a machine that does
# nothing else, in about twenty minutes. DENSE and SPARSE are artefacts of one shape, the second with 80 % zeros in 16x4, such as
# the teacher and blocks-80 of sparse.sh. BANTAM_DATA holds sst2/, whose texts need not be what the artefacts learned from.
# TEXTS, ROUNDS, SECONDS_EACH, LENGTHS and BATCHES make it shorter. Random artefacts that are there are kept.
set -euo pipefail
: "${BANTAM_DATA:?folder with sst2/test.parquet}"
dense=${1:?usage: engine.sh DENSE SPARSE [FOLDER]} sparse=${2:?usage: engine.sh DENSE SPARSE [FOLDER]}
out=${3:-out/engine}
rounds=${ROUNDS:-5} lengths=${LENGTHS:-16 32 128} batches=${BATCHES:-1 32} seconds=${SECONDS_EACH:-3}
runtimes=(onnxruntime openvino bantam)
mkdir -p "$out"

random() { # name, what it is: nobody trained it
    [ -d "$out/$1" ] || python -m compress.random_student "$dense" --out "$out/$1" "${@:2}"
}
base=(--layers 12 --width 768 --heads 12 --neurons 3072)
random zeros-90 --zeros 0.9 --pattern 16x4
random base "${base[@]}"
random base-zeros-80 "${base[@]}" --zeros 0.8 --pattern 16x4

small=("dense=$dense" "80 % zeros in 16x4=$sparse" "90 % zeros in 16x4=$out/zeros-90")
large=("BERT-base shape=$out/base" "BERT-base shape, 80 % zeros in 16x4=$out/base-zeros-80")

python -m benchmarks.arrival "${small[@]}" --data "$BANTAM_DATA/sst2/test.parquet" --runtimes "${runtimes[@]}" \
    --batches 1 4 32 --texts "${TEXTS:-128}" --rounds "$rounds" --json "$out/engine_arrival.json"
# shellcheck disable=SC2086  # words, on purpose
python -m benchmarks.shapes "${small[@]}" --runtimes "${runtimes[@]}" --batches $batches --lengths $lengths \
    --rounds "$rounds" --json "$out/engine_shapes.json"
# shellcheck disable=SC2086
python -m benchmarks.shapes "${large[@]}" --runtimes "${runtimes[@]}" --batches $batches --lengths $lengths \
    --rounds "$rounds" --json "$out/engine_base.json"
python -m benchmarks.shapes "${small[@]}" "${large[@]}" --runtimes "${runtimes[@]}" --batches 1 --lengths "${LONG:-512}" \
    --rounds "$rounds" --json "$out/engine_long.json"
python -m benchmarks.engine "${small[@]}" "${large[@]}" --lengths "${lengths// /,}" --batches "${batches// /,}" \
    --seconds "$seconds" --json "$out/engine_time.json"
# what was measured on a processor with AMX is named engine_*_amx.json
echo "copy $out/engine_*.json to benchmarks/results, then: python -m benchmarks.table --into docs/engine.md"
