# A trainer to watch a server with: torch for the CPU, owl_client and examples/train.py. Checkpoints go to /tmp.
FROM python:3.11-slim-bookworm
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY owl_stream owl_stream
COPY client client
COPY examples examples
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore -c constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu '.[client]' && \
    useradd --no-create-home --shell /usr/sbin/nologin owl
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER owl
WORKDIR /tmp
ENTRYPOINT ["python", "/src/examples/train.py"]
