#!/usr/bin/env bash
# Everything that wants a CUDA device, in pieces of at most ten minutes, without a network.
#   benchmarks/gpu.sh PIECE OUT [SHARED]
# PIECE: tests | speed16 | speed256 | loader | upscale | profile | train_photos | train_faces; OUT: where results go;
# SHARED: the folder with data/ and weights/ (default ../shared). Run from the root, with the package installed.
set -euo pipefail
piece=$1 out=$2 shared=${3:-../shared}
mkdir -p "$out"
export TORCH_HOME=$shared/weights/torch_home WANDB_MODE=offline
python=${PYTHON:-python}
faces=(data=celeba "data.root=$shared/data/celeba")
photos=(data=folder "data.root=$shared/data/bsds400" data.augment=dihedral)
vgg="vgg=$shared/weights/vgg19_conv1_1_to_conv3_1.pth"

train() { # name, seconds, overrides: stops in time, with a checkpoint; goes on where an earlier call stopped
  local name=$1 seconds=$2 last=$out/$1/checkpoints/last.ckpt resume=()
  shift 2
  [ -f "$last" ] && resume=("ckpt_path=$last")
  "$python" -m srgan.train trainer=fast data.cache=device batch_size=32 logger=csv trainer.enable_progress_bar=false \
    "trainer.max_time=00:00:$((seconds / 60)):$((seconds % 60))" "hydra.run.dir=$out/$name" "$@" "${resume[@]}"
}

case $piece in
  tests) "$python" -m pytest -m gpu -q -p no:cacheprovider | tee "$out/tests.txt" ;;
  speed16) "$python" -m srgan.speed 'what=[step,train]' trainer=fast "${faces[@]}" data.cache=device batch_size=16 \
    "hydra.run.dir=$out/speed16" ;;
  speed256) "$python" -m srgan.speed what=step trainer=fast batch_size=256 "hydra.run.dir=$out/speed256" ;;
  loader) "$python" -m srgan.speed what=loader "${faces[@]}" "hydra.run.dir=$out/loader" ;;
  upscale) "$python" -m srgan.speed what=upscale trainer=fast "hydra.run.dir=$out/upscale" ;;
  profile) "$python" benchmarks/profile_step.py "$out/profile.txt" trainer=fast ;;
  train_photos) train photos 520 "${photos[@]}" experiment=photos_gan_x4 "$vgg" phases.content.optimizer.lr=5e-4 \
    phases.content.steps=100000 phases.gan.steps=20000 ;;
  train_faces) train faces 520 "${faces[@]}" loss=srgan_vgg22 content=l1 "$vgg" phases.content.optimizer.lr=5e-4 \
    phases.content.steps=60000 phases.gan.steps=10000 ;;
  *) echo "error: no piece $piece; see the head of this file" >&2; exit 1 ;;
esac
