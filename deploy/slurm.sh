#!/bin/bash
# A sweep on nodes of a Slurm cluster, with a Ray cluster of its own. NOT RUN: its syntax is all that was checked.
# What it starts, what it costs to idle and how to stop it: docs/cluster.md, "Slurm".
#
#   cd ablate && sbatch deploy/slurm.sh search_spaces/depth_ablation.yaml --profile cifar10
#
# Submit it again after its time limit: the sweep goes on where it was stopped.
#SBATCH --job-name=ablate
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=2
#SBATCH --time=08:00:00
set -euo pipefail

time_limit=460                                # minutes: 20 less than --time, for the report and MLflow
out=${ABLATE_OUT:-$PWD/runs}                  # on storage that all nodes share
source .venv/bin/activate

# A token for this job alone, in a file that only you can read.
umask 077
private=$(mktemp -d "$PWD/.ablate-slurm-XXXXXX")
trap 'rm -rf "$private"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$private/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 10000))
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):$port
ray_node=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --node-ip-address="${address%:*}" --include-dashboard=false "${ray_node[@]}" &
for attempt in {1..60}; do
    ray health-check --address "$address" > /dev/null 2>&1 && break
    sleep 2
done
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$address" "${ray_node[@]}" &
done
sleep 30                                      # --jobs follows the nodes that are there when the sweep starts

# This script runs on the first node, where drivers belong. When it ends Slurm ends the Ray processes.
python cli.py sweep "$@" --address "$address" --out "$out" --time-limit "$time_limit"
