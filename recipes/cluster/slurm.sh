#!/bin/bash
# One run on several nodes of a Slurm cluster: every node runs the same command, node 0 leads and the others train with it.
#   sbatch --nodes 4 recipes/cluster/slurm.sh RECIPE RUN_DIR [KEY=VALUE ...]
# RUN_DIR is on a file system that all nodes see. sbatch takes the shell's environment along: activate the virtual
# environment before. The same command resumes an interrupted run, so jobs can be queued one after the other:
#   for i in 1 2 3; do sbatch --dependency singleton recipes/cluster/slurm.sh sso-v1 /scratch/runs/sso-v1; done
#SBATCH --job-name=selfsteer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

if (($# < 2)); then
    echo "usage: sbatch slurm.sh RECIPE RUN_DIR [KEY=VALUE ...]" >&2
    exit 2
fi
recipe=$1 run_dir=$2
shift 2

# A node that fails does not take node 0 with it, which says why and keeps what is done.
exec srun --ntasks-per-node=1 --kill-on-bad-exit=0 \
    selfsteer run "$recipe" train.nodes="$SLURM_NNODES" "$@" --run-dir "$run_dir"
