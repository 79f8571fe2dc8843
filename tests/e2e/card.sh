#!/usr/bin/env bash
# The whole program on cards, which here are made of the CPU (tests/simt): three of them, that run threads in different orders. In float32 the
# kernels have the CPU's bits, so a job leaves the same bytes on either, however learners and rollout ranks lie on cards, stopped or not. Factors
# of bfloat16 have other bits; on every token the learners' log-prob is the rollout's all the same.
source "$(dirname "$0")/lib.sh"
shim=$RLF_BUILD/tests/simt/simt-rlf-train cpu=$rlf_train
cards=${RLF_E2E_CARDS:-$shim} # the program; beside it `rlf`. tests/gpu.sh gives those which run on the machine's cards, few or many
[ -x "$cards" ] || skip "no SIMT shim on this machine"
fresh_work card
"$rlf" init --shape quickstart --hidden 32 --layers 2 --heads 2 --kv-heads 1 --head-dim 16 --ffn 48 --std 0.15 \
    --tokenizer "$RLF_SOURCE/jobs/quickstart/tokenizer.json" --seed 1 -o "$work/init" || fail "rlf init"
tiny=(model.path="$work/init" ranks.rollout=2 train.steps=2 train.prompts=2 algorithm.group=2 train.micro_tokens=160 episode.max_tokens=160
      episode.max_prompt_tokens=96 episode.max_turn_tokens=24 rollout.cache_tokens=1024 rollout.seats=4 rollout.batch=16
      algorithm.entropy=0.05 algorithm.kl=0.05 algorithm.kl_estimator=k3 optimizer.lr=2e-3)

rl on_cpu 6 "${tiny[@]}" device=cpu
rlf_train=$cards
rl on_cards 6 "${tiny[@]}" device=cuda train.steps=1
rl on_cards 6 "${tiny[@]}" device=auto
grep -q "going on from" "$work/on_cards.log" || fail "the second run began from nothing"
if [ "$cards" = "$shim" ]; then
    grep -q "rank 4 learner .* card 0" "$work/on_cards.log" && grep -q "rank 5 learner .* card 1" "$work/on_cards.log" &&
        grep -q "rank 2 rollout .* card 2" "$work/on_cards.log" && grep -q "rank 3 rollout .* card 0" "$work/on_cards.log" ||
        fail "expected learners on cards 0 and 1, rollout ranks on 2 and 0"
    grep -q "rank 4 learner .* 2 ranks exchange gradients and weights from card to card" "$work/on_cards.log" || fail "learners on two cards"
    [ "$(grep -c "rank . rollout .* weights are those of a learner" "$work/on_cards.log")" -eq 1 ] &&
        grep -q "rank 3 rollout .* weights are those" "$work/on_cards.log" || fail "rank 3, and only it, shares the weights on card 0"
fi
[ "$(grep -c "no card has run them yet" "$work/on_cards.log")" -eq 1 ] || fail "expected one warning that no card has run the kernels"
exact_log_probs "$work/on_cards" 2
same_checkpoint "$work/on_cpu/checkpoints/step_2" "$work/on_cards/checkpoints/step_2"
cmp -s "$work/init/model.safetensors" "$work/on_cards/checkpoints/step_2/model.safetensors" && fail "nothing was learnt"
echo "two learners and two rollout ranks on three cards, stopped and continued: the bytes of the CPU"

questions="$(head -n 3 "$fixture/data/train.jsonl")" rlf_cards=${cards/rlf-train/rlf}
"$rlf" score "$work/init" --device cpu <<<"$questions" >"$work/cpu.scores" || fail "rlf score on the CPU"
"$rlf_cards" score "$work/init" --device cuda <<<"$questions" >"$work/card.scores" 2>"$work/score.err" || fail "rlf score: $(cat "$work/score.err")"
grep -q "no card has run some of these kernels yet" "$work/score.err" || fail "rlf score on a card without a warning"
same_file "$work/cpu.scores" "$work/card.scores"
for device in cpu cuda; do
    "$rlf_cards" generate "$work/init" --template chatml --prompt "Peru?" --max-tokens 24 --seed 3 --device $device >"$work/$device.answer" 2>"$work/$device.err" || fail "rlf generate on $device: $(cat "$work/$device.err")"
done
same_file "$work/cpu.answer" "$work/cuda.answer"

# What is measured on cards is what they compute: a hand-over ends in an error where a taker's checksum is not the giver's.
"$rlf_cards" bench all --shape tiny --device cuda --dtype bfloat16 --sequences 2 --length 16 --batch 1,3 --context 16 --seconds 0 --json >"$work/bench.json" 2>"$work/bench.err" || fail "rlf bench all: $(cat "$work/bench.err")"
mpirun -q --bind-to none --oversubscribe -np 4 "$rlf_cards" bench handover --shape tiny --device cuda --seconds 0 >"$work/handover" 2>"$work/handover.err" || fail "rlf bench handover: $(cat "$work/handover.err")"
grep -q "from one rank to 3, \(as the giver's own memory\|from card to card\|through the host\), on cuda" "$work/handover" || fail "rlf bench handover: $(cat "$work/handover")"

mpirun -q --bind-to none --oversubscribe -np 3 "$rlf_cards" bench reduce --shape tiny --reduce-dtype bfloat16 --device cuda --seconds 0 >"$work/reduce" 2>"$work/reduce.err" || fail "rlf bench reduce: $(cat "$work/reduce.err")"
grep -q "gradients as bfloat16 and weights as float32 among 3 learners, on cuda" "$work/reduce" || fail "rlf bench reduce: $(cat "$work/reduce")"

# Gradients that travel as bfloat16: from card to card, and, as four learners have three cards, through the host.
for learners in 2 4; do
    for device in cpu cuda; do
        rl "reduced_${device}_$learners" $((4 + learners)) "${tiny[@]}" device=$device train.reduce_dtype=bfloat16 train.steps=1
    done
    same_checkpoint "$work/reduced_cpu_$learners/checkpoints/step_1" "$work/reduced_cuda_$learners/checkpoints/step_1"
done

# More ranks than cards.
rl bfloat16 10 "${tiny[@]}" ranks.rollout=4 device=cuda model.dtype=bfloat16
exact_log_probs "$work/bfloat16" 2
rl ampere 10 "${tiny[@]}" ranks.rollout=4 device=cuda model.dtype=bfloat16 isa=ampere
same_checkpoint "$work/bfloat16/checkpoints/step_2" "$work/ampere/checkpoints/step_2"
stored=("${tiny[@]}" model.dtype=bfloat16 model.compute_dtype=float32)
rl stored_cpu 6 "${stored[@]}" device=cpu
rl stored_cuda 6 "${stored[@]}" device=cuda train.steps=1
rl stored_cuda 6 "${stored[@]}" device=cuda
grep -q "going on from" "$work/stored_cuda.log" || fail "the second run with stored weights began from nothing"
same_checkpoint "$work/stored_cpu/checkpoints/step_2" "$work/stored_cuda/checkpoints/step_2"

[ "$cards" = "$shim" ] || exit 0
grep -q "rank 6 learner .* 4 ranks exchange gradients and weights through the host" "$work/bfloat16.log" || fail "four learners on three cards"
grep -q "rank 6 learner .* weights go to 0 of 4 rollout ranks from card to card, to 0 through the host;" "$work/bfloat16.log" || fail "four rollout ranks on the cards of four learners"
launch 6 --check "${rl_job[@]}" "${tiny[@]}" output="$work/checked" device=cuda >"$work/check.log" 2>&1 || fail "--check: $(tail -n 3 "$work/check.log")"
# NCCL: the link of the two learners, with a peer each, and that of the first and rank 2: 600 MB and 32 channels of 12 MiB each.
grep -q "^card 0 .* MB taken by rank 3 rollout, rank 4 learner, NCCL (2005.3 MB)$" "$work/check.log" && grep -q "^card 1 .* taken by rank 5 learner, NCCL (1002.7 MB)$" "$work/check.log" || fail "--check does not say what is on cards 0 and 1: $(grep card "$work/check.log")"
for rank in "2 rollout" "4 learner"; do
    planned=$(sed -n "s/^rank .* ${rank#* } *\([0-9.]*\) MB each.*/\1/p" "$work/check.log")
    taken=$(sed -n "s/.*rank $rank .*order, \([0-9.]*\) MB, .*/\1/p" "$work/on_cards.log")
    awk -v p="$planned" -v t="$taken" 'BEGIN {exit !(p > 0 && t > 0 && p < 1.05 * t && t < 1.05 * p)}' || fail "rank $rank: $planned MB planned, $taken taken"
done
launch 5 "${rl_job[@]}" "${tiny[@]}" output="$work/large" device=cuda rollout.cache_tokens=50000000 >"$work/large.log" 2>&1 && fail "a cache of more than a card"
own_lines "$work/large.log" | grep -q "card 1, .* MB are planned for rank 2 rollout, NCCL .*, but it has" || fail "expected a line about card 1: $(tail -n 3 "$work/large.log")"

# A learner that is stopped: the one that waits for its card says so, by its own deadline.
start_job "$work/stopped.log" 6 "${rl_job[@]}" "${tiny[@]}" output="$work/stopped" device=cuda train.steps=500 deadline.collective_s=20
await_steps "$work/stopped" 1
kill -STOP "$(process_of_rank 5)" || fail "the second learner was not found below the launcher"
wait "$job" && fail "a stopped learner: the job ended with status 0"
grep -q "^rlf-train: error: rank 4 learner: deadline passed while waiting for the other 1 cards of NCCL: " "$work/stopped.log" ||
    fail "a stopped learner: $(grep "^rlf-train: error" "$work/stopped.log")"
echo "a stopped learner: $(grep "^rlf-train: error" "$work/stopped.log")"

rlf_train=$cpu
[ -e /dev/nvidia0 ] && exit 0
launch 5 "${rl_job[@]}" "${tiny[@]}" output="$work/none" device=cuda >"$work/none.log" 2>&1 && fail "device=cuda without a card"
[ "$(own_lines "$work/none.log" | grep -c "device: cuda: ")" -eq 1 ] || fail "expected one line about the device: $(cat "$work/none.log")"

# Some ranks on cards, some not.
mixed=("${rl_job[@]}" "${tiny[@]}" output="$work/mixed" ranks.rollout=2)
mpirun -q --bind-to none --oversubscribe -np 4 "$cpu" "${mixed[@]}" : -np 1 "$shim" "${mixed[@]}" >"$work/mixed.log" 2>&1 && fail "a job on cards and CPUs"
[ "$(own_lines "$work/mixed.log" | grep -c "computes on .*: set device to cpu, or start the job where every node has cards")" -eq 1 ] ||
    fail "expected one line about the devices: $(tail -n 5 "$work/mixed.log")"
