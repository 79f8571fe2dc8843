#!/usr/bin/env bash
# The NQ experiment (jobs/nq.yaml) from a batch script of Slurm's, on any number of nodes of eight cards:
#
#   sbatch jobs/nq.sh [key=value ...]                         # from the root of the tree, after cmake has built it in build/
#   sbatch -d singleton jobs/nq.sh [key=value ...]            # once more: goes on where the first ran out of time
#   sbatch -N 2 jobs/nq.sh [key=value ...]                    # two nodes
#   jobs/nq.sh                                                # without Slurm: on this machine's cards
#
# What it reads, each as it is published on the Hugging Face hub:
#   data/nq/train.jsonl, test.jsonl   RUC-NLPIR/FlashRAG_datasets, folder nq: 79,168 and 3,610 questions
#   models/Qwen3-4B                   Qwen/Qwen3-4B
# and the service that answers searches, Search-R1's or any that speaks as it does: tools.0.url=http://HOST:8000/retrieve. Without one, over the
# passages (PeterJinGo/wiki-18-corpus) by words alone: build/trainer/rlf index wiki-18.jsonl -o wiki.idx, then
# tools.0.kind=index tools.0.path=wiki.idx tools.0.batch=1
#
#SBATCH --job-name=rlf-nq
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=19
#SBATCH --cpus-per-task=2
#SBATCH --mem=0
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
[ -x build/trainer/rlf-train ] || { echo "nq.sh: no build/trainer/rlf-train in $PWD: expected the root of the tree, built" >&2; exit 1; }

# Rank 0, two tool ranks, and for each of eight cards a node a rollout rank and a learner: ranks go around the nodes, and so do both kinds.
nodes=${SLURM_JOB_NUM_NODES:-1}
exec mpirun -q --bind-to none --map-by node --oversubscribe -np $((3 + 16 * nodes)) "$PWD/build/trainer/rlf-train" jobs/nq.yaml \
    ranks.rollout=$((8 * nodes)) "$@"
