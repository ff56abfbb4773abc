# docker build --target cpu -t maieutic:cpu .      (the default: no GPU, a far smaller image)
# docker build --target cuda -t maieutic:cuda .    (needs the NVIDIA container toolkit to run)
# docker run --rm -v maieutic-models:/cache/huggingface -v "$PWD:/data" maieutic:cpu demo-base --corpus c.jsonl --out base

FROM python:3.11-slim-bookworm AS base
ENV HF_HOME=/cache/huggingface \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 maieutic \
    && install --directory --owner=maieutic --group=maieutic /cache/huggingface /data
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src

FROM base AS cuda
# PyPI's torch for Linux brings CUDA along; the driver is the host's.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir -c constraints.txt '.[train,fast,export,serve]'
USER 1000
WORKDIR /data
VOLUME /cache/huggingface
EXPOSE 8000
ENTRYPOINT ["maieutic"]
CMD ["--help"]

FROM base AS cpu
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt '.[train,fast,export,serve]'
USER 1000
WORKDIR /data
VOLUME /cache/huggingface
EXPOSE 8000
ENTRYPOINT ["maieutic"]
CMD ["--help"]
