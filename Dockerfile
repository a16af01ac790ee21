# One image for the studio and the pipelines, on a CPU or on a GPU; docs/set-up.md says how it is built and run.
#   CPU:  docker build --tag fportrait .
#   GPU:  docker build --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 --build-arg EXTRAS=web,gpu --tag fportrait:cuda .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# libgl1 and libglib2.0-0: OpenCV. git: the lineage names the commit. A base without Python gets the distribution's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git libgl1 libglib2.0-0 make \
    && (command -v python3 || apt-get install --yes --no-install-recommends python3 python3-dev python3-venv g++) \
    && rm -rf /var/lib/apt/lists/*

# Nobody runs as root: what the image writes on a mounted folder belongs to this number.
ARG USER_ID=1000
RUN (getent passwd "${USER_ID}" || useradd --uid "${USER_ID}" --create-home --shell /bin/bash fportrait) \
    && install --directory --owner="${USER_ID}" /opt/fportrait /opt/venv /data
USER ${USER_ID}
ENV HOME=/data VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=true GX_ANALYTICS_ENABLED=false KEDRO_DISABLE_TELEMETRY=1 DVC_NO_ANALYTICS=1 HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# torch first, so that nothing else pulls another one. TORCH_INDEX: an index with CPU wheels, which are much smaller.
ARG TORCH=2.13.0
ARG TORCH_INDEX=
# hadolint ignore=DL3013  # it is pinned
RUN python3 -m venv "${VIRTUAL_ENV}" && pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "torch==${TORCH}"

WORKDIR /opt/fportrait
# With .git: DVC wants a repository, and a model that was made in the image names its commit.
COPY --chown=${USER_ID} . .
ARG EXTRAS=web
RUN pip install --constraint constraints.txt --editable ".[${EXTRAS}]"

EXPOSE 7860
ENTRYPOINT ["/opt/fportrait/tools/container.sh"]
CMD ["studio"]
