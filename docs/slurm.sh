#!/bin/bash
#SBATCH --job-name=images
#SBATCH --array=0-63%8           # 64 shards, 8 at once; the number of shards stays as it is
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=24:00:00
#SBATCH --requeue                # a shard goes on where it was
#SBATCH --signal=B:TERM@90       # before the limit: what is in flight is finished
#SBATCH --output=images-%a.log
#SBATCH --open-mode=append

# The key comes from your environment: export IMAGEN_API_KEY and IMAGEN_BASE_URL, then sbatch.
# Submit it from the folder that holds prompts.jsonl, on a disk that every node sees and locks.
# Afterwards, or meanwhile: imagen-async status images; imagen-async merge images
exec imagen-async batch prompts.jsonl --out images \
    --shards 64 --shard "$SLURM_ARRAY_TASK_ID" \
    --concurrency 16
