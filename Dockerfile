# The server image: no torch, no compiler, no pip, not root.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY owl_stream owl_stream
COPY client client
COPY examples examples
# What is not needed to run stays out: pip itself, the tests that wheels bring, bytecode of what is never imported.
RUN python -m venv --without-pip /opt/owl && \
    pip --python /opt/owl/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
    --root-user-action=ignore -c constraints.txt '.[server]' && \
    find /opt/owl -depth -type d -name tests -exec rm -r {} + && \
    /opt/owl/bin/python -c "import owl_stream.server, owl_stream.cli, owl_stream.engine.worker, uvicorn.lifespan.on" && \
    /opt/owl/bin/owl-stream --help > /dev/null

# A dataset of photographs, so that the image serves something before it is given anything.
FROM build AS demo
RUN pip --python /opt/owl/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
    --root-user-action=ignore --no-deps -c constraints.txt scikit-image && \
    /opt/owl/bin/python -c "from pathlib import Path; from owl_stream.demo import build_demo_dataset; \
    build_demo_dataset(Path('/srv/demo'))"

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 owl && useradd --uid 10001 --gid owl --no-create-home --shell /usr/sbin/nologin owl && \
    mkdir /data /index && chown owl:owl /index
COPY --from=build /opt/owl /opt/owl
COPY --from=demo /srv/demo /srv/demo
ENV PATH=/opt/owl/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OWL_SERVER__HOST=0.0.0.0 OWL_SERVER__PORT=8000 OWL_HEALTH_URL=http://127.0.0.1:8000/health
USER owl
EXPOSE 8000
VOLUME /index
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, ssl, urllib.request as u; \
    u.urlopen(os.environ['OWL_HEALTH_URL'], timeout=4, context=ssl._create_unverified_context())"]
# With /data/owl-stream.yaml that is served; without it, the demo's photographs are.
CMD ["sh", "-c", "config=/data/owl-stream.yaml; [ -f $config ] || config=/srv/demo/owl-stream.yaml; exec owl-stream serve --config $config --index-dir /index"]
