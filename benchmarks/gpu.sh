#!/usr/bin/env bash
# Everything that needs a CUDA device, in pieces that can be run one by one, without downloads.
#   benchmarks/gpu.sh PIECE OUT [SHARED]
# PIECE: tests | speed16 | speed256 | workers | loader | upscale | profile | photos | photos_paper | faces | evaluate;
# OUT: where results go; SHARED: the folder with data/ and weights/ (default ../shared). Run from the root, with the
# package and its extra `vgg` installed. A training that didn't end in time goes on when its piece is run again.
# REHEARSE=1 runs every line on a CPU with tiny networks and a few steps: benchmarks/gpu.sh all OUT does so for all.
set -euo pipefail
piece=$1 out=$2 shared=${3:-../shared}
mkdir -p "$out"
export TORCH_HOME=$shared/weights/torch_home WANDB_MODE=offline
python=${PYTHON:-python}
faces=(data=celeba "data.root=$shared/data/celeba")
photos=("data.root=$shared/data/bsds400")
fast=(trainer=fast data.cache=device)
vgg54=(loss=srgan_vgg54 vgg=random)
small=() few=() measured=()
if [ "${REHEARSE:-0}" = 1 ]; then
  small=(generator.channels=4 generator.blocks=1 data.crop=32 batch_size=2)
  few=(phases.content.steps=4 phases.gan.steps=2 data.validation_images=2 data.test_images=2)
  measured=(rounds=1 seconds=0.1 discriminator.channels=2 discriminator.hidden=4 loss=srgan_mse)
fi

speed() { # name, overrides: fastest and plain in one process, and the step without its guard
  "$python" -m srgan.speed "hydra.run.dir=$out/$1" "${@:2}" "${small[@]}" "${measured[@]}"
}

train() { # name, overrides: stops in time, with a checkpoint; goes on where an earlier call stopped
  local name=$1 last=$out/$1/checkpoints/last.ckpt resume=()
  [ -f "$last" ] && resume=("ckpt_path=$last")
  "$python" -m srgan.train "${fast[@]}" batch_size=16 phases.content.steps=60000 phases.gan.steps=30000 \
    trainer.val_check_interval=5000 trainer.enable_progress_bar=false trainer.max_time=00:00:08:40 \
    "hydra.run.dir=$out/$name" "${@:2}" "${small[@]}" "${few[@]}" "${resume[@]}"
}

evaluate() { # Set5: after the content phase and at the end, for each training so far
  local models=() name file
  for name in photos photos_paper faces; do
    for file in content last; do
      [ -f "$out/$name/checkpoints/$file.ckpt" ] && models+=("${name}_$file: \"$out/$name/checkpoints/$file.ckpt\"")
    done
  done
  "$python" -m srgan.evaluate "benchmark.root=$shared/data/benchmarks/Set5" "hydra.run.dir=$out/evaluate" \
    "models={$(IFS=,; echo "${models[*]}")}"
}

case $piece in
  tests) "$python" -m pytest -m gpu -q -p no:cacheprovider | tee "$out/tests.txt" ;;
  speed16) speed speed16 'what=[step,train]' "${fast[@]}" "${faces[@]}" batch_size=16 "${vgg54[@]}" ;;
  speed256) speed speed256 'what=[step,train]' "${fast[@]}" "${faces[@]}" batch_size=256 "${vgg54[@]}" ;;
  workers) speed workers what=train trainer=fast "${faces[@]}" batch_size=16 "${vgg54[@]}" ;;
  loader) speed loader what=loader "${faces[@]}" ;;
  upscale) speed upscale what=upscale "${fast[@]}" ;;
  profile)
    "$python" benchmarks/profile_step.py "$out/profile.txt" trainer=fast "${vgg54[@]}" "${small[@]}" "${measured[@]}"
    ;;
  photos) train photos experiment=photos_projected_x4 "${photos[@]}" ;;
  photos_paper)
    train photos_paper experiment=photos_projected_x4 "${photos[@]}" generator=srresnet generator.channels=64 \
      generator.blocks=16 generator.upsampler=shuffle phases.content.optimizer._target_=torch.optim.Adam \
      phases.content.optimizer.lr=5e-4
    ;;
  faces) train faces experiment=photos_projected_x4 "${faces[@]}" data.augment=flip ;;
  evaluate) evaluate ;;
  all)
    for piece in tests speed16 speed256 workers loader upscale profile photos photos photos_paper faces evaluate; do
      "$0" "$piece" "$out" "$shared"
    done
    ;;
  *) echo "error: no piece $piece; see the head of this file" >&2; exit 1 ;;
esac
