# toilcache in an image of its own, for leaders and workers:
#
#   docker build --tag toilcache .          or with another base: --build-arg BASE=python:3.13-slim
#   docker run --rm toilcache --help
#
# Jobs do not need it: they run in any image with Python 3.10 or later (--container). The base has Python and pip.
# The engine comes in as a wheel: the source tree itself holds links that an image would not have.

ARG BASE=python:3.12-slim

FROM ${BASE} AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY toilcache toilcache
COPY batch batch
COPY containers containers
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
COPY --from=wheel /wheels /wheels
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore /wheels/*.whl \
    && rm -rf /wheels \
    && echo 'toilcache:x:1000:1000::/home/toilcache:/bin/sh' >> /etc/passwd \
    && echo 'toilcache:x:1000:' >> /etc/group \
    && mkdir -p /home/toilcache \
    && chown 1000:1000 /home/toilcache
USER 1000:1000
WORKDIR /home/toilcache
ENTRYPOINT ["toilcache"]
