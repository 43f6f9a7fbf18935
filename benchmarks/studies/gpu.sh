#!/usr/bin/env bash
# What this GPU does, in at most 9 minutes: one JSON, one page and one picture in the folder --out.
#     bash benchmarks/studies/gpu.sh --out gpu [--device cuda] [--published CHECKOUT] [--data 'cifar10[root=data]'] [--small]
# Forward and training throughput in float32, TF32 and bfloat16, compiled, beside the published code if its checkout is given; the share
# of a measured matrix-product peak; every predictor's samples a second and its share outside the network; how often the host waits for
# the GPU; and a training of three minutes. --small is a tiny size for trying the script on a CPU. Each part has a limit of seconds (the
# first number) and may fail: the page says so.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out='' device=cuda published=() data='cifar10[root=data]' small=''
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2 && shift 2 ;;
    --device) device=$2 && shift 2 ;;
    --published) published=(--published "$2") && shift 2 ;;
    --data) data=$2 && shift 2 ;;
    --small) small=yes && shift ;;
    *) echo "unknown option $1" && exit 2 ;;
    esac
done
[ -n "$out" ] || { echo "say where the page goes: --out FOLDER" && exit 2; }
[ ! -e "$out" ] || { echo "$out exists: choose another --out" && exit 2; }
mkdir -p "$out/logs"

forward=(--preset ve_cifar10_ncsnpp_continuous --batch 256 --compile)
training=(--set model.network.nf=128 training.batch_size=128)
predictors=(--network vp_cifar10_ddpmpp_continuous --batch-size 64 --autocast bfloat16)
cifar=(cifar10_quick training.precision=bfloat16 training.channels_last=true training.compile=true) minutes=180
if [ -n "$small" ]; then
    forward=(--preset mnist_vp --batch 4 --repeat 2)
    training=(--preset mnist_vp --set model.network.nf=16 training.batch_size=4 --repeat 2)
    predictors=(--network mnist_vp --batch-size 2 --steps 2)
    cifar=(cifar10_quick model.network.nf=16 training.batch_size=4 training.warmup=5 training.log_every=5 sampling.n=16
        sampling.sampler.steps=2 data.random_flip=false) minutes=15
    data='exact[target=gaussian[shape=[3,32,32],std=0.5,decay=2],count=500]'
fi
part() { # name, limit in seconds, command
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    timeout --signal=TERM --kill-after=10 "$limit" "$@" >"$out/logs/$name.txt" 2>"$out/logs/$name.err"
    echo "$name $? $((SECONDS - started))" | tee -a "$out/logs/parts"
}
part forward 110 python "$here/speed/network_forward.py" --device "$device" "${forward[@]}" "${published[@]}"
NVIDIA_TF32_OVERRIDE=0 part training_float32 60 python "$here/speed/training_step.py" --device "$device" "${training[@]}" "${published[@]}"
part training 75 python "$here/speed/training_step.py" --device "$device" "${training[@]}"
part predictors 70 python "$here/speed/predictor_speed.py" --device "$device" "${predictors[@]}"
part waits 20 python "$here/../../docs/pictures/gpu_page.py" waits --device "$device"
run=(scoresde train "${cifar[@]}" "data.dataset=$data" --out "$out/cifar10" --device "$device")
part cifar10 "$minutes" "${run[@]}"
# Stopped by its limit it has saved its state: asked for the steps that it made, it writes its model and the picture.
steps=$(find "$out/cifar10/checkpoints" -maxdepth 1 -name 'step_*' 2>/dev/null | sort | tail -1 | sed 's/.*step_0*//')
[ -z "$steps" ] || part picture 20 "${run[@]}" "training.iterations=$steps"
python "$here/../../docs/pictures/gpu_page.py" page --out "$out" --device "$device"
