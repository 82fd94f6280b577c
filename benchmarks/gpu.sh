#!/usr/bin/env bash
# Everything that wants a CUDA device, in pieces of at most ten minutes, without a network.
#   benchmarks/gpu.sh PIECE OUT [SHARED]
# PIECE: tests | speed16 | speed256 | loader | upscale | profile | train_photos | train_faces; OUT: where results go;
# SHARED: the folder with data/ and weights/ (default ../shared). Run from the root, with the package installed.
# REHEARSE=1 runs every line on a CPU with tiny networks and a few steps: benchmarks/gpu.sh all OUT does so for all.
set -euo pipefail
piece=$1 out=$2 shared=${3:-../shared}
mkdir -p "$out"
export TORCH_HOME=$shared/weights/torch_home WANDB_MODE=offline
python=${PYTHON:-python}
faces=(data=celeba "data.root=$shared/data/celeba")
photos=(data=folder "data.root=$shared/data/bsds400" data.augment=dihedral)
fast=(trainer=fast data.cache=device)
small=() few=() measured=()
if [ "${REHEARSE:-0}" = 1 ]; then
  small=(generator.channels=4 generator.blocks=1 data.crop=32 batch_size=2)
  few=(phases.content.steps=4 phases.gan.steps=2 data.validation_images=2 data.test_images=2)
  measured=(rounds=1 seconds=0.1 discriminator.channels=2 discriminator.hidden=4 loss=srgan_mse)
fi

speed() { # name, overrides
  "$python" -m srgan.speed "hydra.run.dir=$out/$1" "${@:2}" "${small[@]}" "${measured[@]}"
}

train() { # name, seconds, overrides: stops in time, with a checkpoint; goes on where an earlier call stopped
  local name=$1 last=$out/$1/checkpoints/last.ckpt time resume=()
  time=$(printf '00:00:%02d:%02d' $(($2 / 60)) $(($2 % 60)))
  [ -f "$last" ] && resume=("ckpt_path=$last")
  "$python" -m srgan.train "${fast[@]}" batch_size=32 logger=csv trainer.enable_progress_bar=false \
    "trainer.max_time=$time" "hydra.run.dir=$out/$name" "${@:3}" "${small[@]}" "${few[@]}" "${resume[@]}"
}

case $piece in
  tests) "$python" -m pytest -m gpu -q -p no:cacheprovider | tee "$out/tests.txt" ;;
  speed16) speed speed16 'what=[step,train]' "${fast[@]}" "${faces[@]}" batch_size=16 loss=srgan_vgg54 vgg=random ;;
  speed256) speed speed256 what=step "${fast[@]}" batch_size=256 loss=srgan_vgg54 vgg=random ;;
  loader) speed loader what=loader "${faces[@]}" ;;
  upscale) speed upscale what=upscale "${fast[@]}" ;;
  profile) "$python" benchmarks/profile_step.py "$out/profile.txt" trainer=fast "${small[@]}" "${measured[@]}" ;;
  train_photos) train photos 520 "${photos[@]}" experiment=photos_projected_x4 phases.content.steps=100000 \
    phases.gan.steps=20000 ;;
  train_faces) train faces 520 "${faces[@]}" loss=srgan_vgg54 content=l1 discriminator=patch \
    phases.content.optimizer.lr=5e-4 phases.content.steps=60000 phases.gan.steps=10000 ;;
  all)
    for piece in tests speed16 speed256 loader upscale profile train_photos train_photos train_faces; do
      "$0" "$piece" "$out" "$shared"
    done
    ;;
  *) echo "error: no piece $piece; see the head of this file" >&2; exit 1 ;;
esac
