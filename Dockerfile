# CPU:   docker build -t mdkd_auto .
# CUDA:  docker build -t mdkd_auto:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 \
#          --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# Run:   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/mdkd_data:/data" mdkd_auto train 011
#        (CUDA: add --gpus all)
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=all

# The distribution keeps one version of each package, and removes the older ones: a pin would break the build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/mdkd_auto \
    && useradd --create-home --uid 10001 mdkd \
    && install -d -o mdkd -g mdkd /data

ENV PATH="/opt/mdkd_auto/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    MDKD_ROOT=/data

# A layer of its own: large, and the same for every version of mdkd_auto. pyproject.toml has the lower bounds.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch torchvision

COPY . /src
RUN pip install --no-cache-dir "/src[${EXTRAS}]"

USER 10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["python", "-m", "mdkd_auto"]
CMD ["--help"]
