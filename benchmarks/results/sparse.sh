#!/usr/bin/env bash
# The students behind sparse_shapes.json and sparse_storage.json: TREC, seed 0, each ten to twenty minutes on one core.
# BANTAM_DATA holds trec/ and the corpus, BANTAM_MODELS holds encoder-12l-h384/. What is there already is kept.
set -euo pipefail
: "${BANTAM_DATA:?folder with trec/train.parquet}" "${BANTAM_MODELS:?folder with encoder-12l-h384/}"
out=${1:-out/trec}
task=(--set "task.dataset=$BANTAM_DATA/trec" --set task.selection=0.1 --set teacher.epochs=4 --set teacher.batch_size=32)

student() { # name, what goes
    bantam compress prune-ofa --out "$out/$1" --resume "${task[@]}" --set "name=$1" --set corpus=null \
        --set 'pretraining=[]' --set 'export.int8=[static]' --set "stages=[{techniques: [
            {use: distil/logits, soft_weight: 0.9}, {use: distil/tinybert, attention: false}, {$2}],
            epochs: 4, lr: 1.0e-4, batch_size: 32, dropout: 0}]"
}

for budget in 50 35 25; do
    student "structured-$budget" "use: prune/structured, budget: 0.$budget"
done
student layers-top 'use: prune/layers, strategy: top, drop: 6'
student layers-alternate 'use: prune/layers, strategy: alternate-even, drop: 6'
student zeros-85 'use: prune/obs, final: 0.85'
student blocks-80 'use: prune/obs, final: 0.8, pattern: 16x4'

# 90 %, pruned once on the corpus, then moved to the task. What both begin with lies in the cache: the newest of each kind.
bantam compress prune-ofa --out "$out/pruned-90" --resume "${task[@]}" --set pretraining.1.techniques.2.final=0.9
kept=${BANTAM_CACHE:-$HOME/.cache/bantam}
pruned=$(ls -td "$kept"/pretrained/*/ | head -1)
teacher=$(ls -td "$kept"/teachers/*/ | head -1)
bantam compress prune-ofa-transfer --out "$out/ofa-90-qat" --resume "${task[@]}" --set name=ofa-90-qat \
    --set "student.start=$pruned" --set 'task.text=[sentence]' --set stages.0.lr=3.0e-4 --set export.max_drop=0.05

python -m benchmarks.shapes "dense=$teacher" "structured, half the time=$out/structured-50" \
    "structured, 0.35=$out/structured-35" "structured, 0.25=$out/structured-25" \
    "6 of 12 layers, top dropped=$out/layers-top" "6 of 12 layers, every second=$out/layers-alternate" \
    "85 % zeros=$out/zeros-85" "80 % zeros in 16x4=$out/blocks-80" \
    --runtimes onnxruntime openvino openvino-sparse bantam --batches 1 32 --lengths 16 128 --rounds 5 \
    --json "$out/sparse_shapes.json"
python -m benchmarks.storage "90 % zeros, quantisation-aware=$out/ofa-90-qat" "85 % zeros=$out/zeros-85" \
    "80 % zeros in 16x4=$out/blocks-80" "structured, 0.25=$out/structured-25" --json "$out/sparse_storage.json"
