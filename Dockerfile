# Two images from one file: `gateway` (no torch, under 400 MB) and `worker` (with torch). Both run as a plain user.
#   docker build --target gateway --tag longlook-gateway .
#   docker build --target worker --tag longlook-worker .
# `make image-check` runs the same steps without a container engine.

FROM python:3.11-slim AS gateway
RUN groupadd --gid 10001 longlook \
 && useradd --uid 10001 --gid longlook --create-home --home-dir /app --shell /usr/sbin/nologin longlook
ENV PATH=/app/.venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    LONGLOOK_HOST=0.0.0.0 \
    LONGLOOK_PORT=8080
WORKDIR /app
USER longlook
COPY --chown=longlook:longlook pyproject.toml constraints.txt ./
COPY --chown=longlook:longlook deploy/requirements.py deploy/
RUN python -m venv --without-pip .venv \
 && python deploy/requirements.py > requirements.txt \
 && pip --python .venv/bin/python install --no-cache-dir --no-compile -c constraints.txt -r requirements.txt
COPY --chown=longlook:longlook LICENSE NOTICE ./
COPY --chown=longlook:longlook protocol protocol
COPY --chown=longlook:longlook server server
COPY --chown=longlook:longlook launcher launcher
COPY --chown=longlook:longlook clients clients
COPY --chown=longlook:longlook deploy/distribution.py deploy/
# Without libseccomp, which apt brings, a gateway would refuse all media: the build fails instead.
RUN python deploy/distribution.py && python -m compileall -q protocol server launcher clients/python \
 && python -c "from server.media.sandbox import Sandbox; Sandbox()"
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD python -c "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['LONGLOOK_PORT'] + '/livez', timeout=2)"
ENTRYPOINT ["longlook"]
CMD ["gateway"]

FROM gateway AS worker
# A CUDA build: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/<your CUDA version>
ARG TORCH_SPEC=torch>=2.11
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip --python .venv/bin/python install --no-cache-dir --no-compile ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH_SPEC"
RUN python deploy/requirements.py worker > requirements.txt \
 && pip --python .venv/bin/python install --no-cache-dir --no-compile -c constraints.txt -r requirements.txt
COPY --chown=longlook:longlook workers workers
COPY --chown=longlook:longlook models models
COPY --chown=longlook:longlook deploy/worker_health.py deploy/
RUN python -m compileall -q workers && mkdir -p .cache/huggingface
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s \
  CMD python deploy/worker_health.py
CMD ["worker"]
