# syntax=docker/dockerfile:1
# scoresde in an image, which runs the main job unless told otherwise.
#     docker build -t scoresde .                                        # CPU
#     docker build -t scoresde:cuda --build-arg ACCELERATOR=cuda .      # an NVIDIA GPU, with docker run --gpus all
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

ARG ACCELERATOR=cpu
# The wheels of torch for each: the index's own have CUDA in them, those of pytorch.org/whl/cpu do not.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 scoresde
WORKDIR /src
COPY --chown=scoresde:scoresde . .
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN if [ "$ACCELERATOR" = cpu ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.6" "torchvision>=0.21"; \
    elif [ "$ACCELERATOR" != cuda ]; then echo "ACCELERATOR is cpu or cuda, not $ACCELERATOR" && exit 1; fi \
    && pip install --no-cache-dir . \
    && rm -rf build ./*.egg-info

USER 1000
WORKDIR /home/scoresde
# Results are written here: docker run -v "$PWD/results:/home/scoresde/scoresde-runs" scoresde
CMD ["scoresde-bench", "--predictor", "reverse_diffusion", "--corrector", "langevin"]
