# The server image: no torch, no compiler, not root.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY owl_stream owl_stream
COPY client client
COPY examples examples
RUN python -m venv /opt/owl && /opt/owl/bin/pip install --no-cache-dir --disable-pip-version-check \
    -c constraints.txt '.[server]'

# A dataset of photographs, so that the image serves something before it is given anything.
FROM build AS demo
RUN /opt/owl/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -c constraints.txt scikit-image && \
    /opt/owl/bin/python -c "from pathlib import Path; from owl_stream.demo import build_demo_dataset; \
    build_demo_dataset(Path('/srv/demo'))"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home owl && mkdir /data /index && chown owl /index
COPY --from=build /opt/owl /opt/owl
COPY --from=demo --chown=owl /srv/demo /srv/demo
ENV PATH=/opt/owl/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OWL_SERVER__HOST=0.0.0.0 OWL_SERVER__PORT=8000
USER owl
EXPOSE 8000
VOLUME /index
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# With /data/owl-stream.yaml that is served; without it, the demo's photographs are.
CMD ["sh", "-c", "config=/data/owl-stream.yaml; [ -f $config ] || config=/srv/demo/owl-stream.yaml; exec owl-stream serve --config $config --index-dir /index"]
