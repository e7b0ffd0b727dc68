#!/usr/bin/env bash
# The experiment behind sst2.json: one teacher, students of 6 and 3 layers by three methods, all measured in one run.
# BANTAM_DATA holds sst2/, BANTAM_MODELS holds encoder-12l-h384/. About an hour and a half on two cores; what is there
# already is kept, so a stopped run goes on.
set -euo pipefail
: "${BANTAM_DATA:?folder with sst2/train.parquet}" "${BANTAM_MODELS:?folder with encoder-12l-h384/}"
out=${1:-out/sst2}

for method in tinybert distilbert logits; do
    for depth in 6 3; do
        layers='[1, 3, 5, 7, 9, 11]'
        [ "$depth" = 6 ] || layers='[3, 7, 11]'
        name=sst2-${depth}l-$method
        bantam compress "sst2-$method" --out "$out/$name" --set "name=$name" --set "student.layers=$layers" --resume
    done
done
bantam bench "$out"/sst2-{6,3}l-{tinybert,distilbert,logits} --json "$out/sst2.json" --html "$out/sst2.html"

# What each artefact says of itself: recipe, metrics on every split, INT8 files tried, where it was made.
cd "$out"
for artefact in sst2-{6,3}l-{tinybert,distilbert,logits}; do
    bantam inspect "$artefact" --json
done > sst2-artefacts.jsonl
