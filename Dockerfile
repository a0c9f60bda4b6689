# A DreamCuts worker: `docker build -t dreamcuts .`, then
# `docker run --env-file worker.env dreamcuts work --types tts,music`.
# With the sandbox and the demo: `docker build --build-arg EXTRAS='[demo]' -t dreamcuts:demo .`

FROM python:3.12-slim AS build
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/dreamcuts
WORKDIR /source
# The dependencies first: they change less often than the code, and stay in the cache.
COPY pyproject.toml constraints.txt ./
RUN python -c "import re, sys, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = re.findall(r'[a-z]+', sys.argv[1]); \
print('\n'.join(project['dependencies'] + sum((project['optional-dependencies'][name] for name in extras), [])))" \
    "$EXTRAS" > requirements.txt \
    && /opt/dreamcuts/bin/pip install -c constraints.txt -r requirements.txt
COPY README.md LICENSE CHANGELOG.md ./
COPY sql sql
COPY examples examples
COPY dreamcuts dreamcuts
RUN /opt/dreamcuts/bin/pip install -c constraints.txt ".$EXTRAS" \
    && /opt/dreamcuts/bin/python -m compileall -q /opt/dreamcuts/lib \
    && /opt/dreamcuts/bin/pip uninstall --yes --quiet pip

FROM python:3.12-slim
COPY --from=build /opt/dreamcuts /opt/dreamcuts
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/dreamcuts dreamcuts
ENV PATH=/opt/dreamcuts/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    ENABLE_HEALTH_CHECK=true \
    HEALTH_CHECK_HOST=0.0.0.0 \
    HEALTH_CHECK_PORT=8080
USER 10001
WORKDIR /var/lib/dreamcuts
EXPOSE 8080
# Drains; give it time: `docker stop --time 100`.
STOPSIGNAL SIGTERM
# /live, not /health or /ready: Swarm and ECS replace what is unhealthy, and while the database is away, or the worker
# drains, a new one would do no better. Nothing is asked where the health server is off, or its port is the OS's choice.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; port = os.environ.get('HEALTH_CHECK_PORT') or '8080'; off = os.environ.get('ENABLE_HEALTH_CHECK', '').lower() not in ('true', '1', 'yes', 'on', 't', 'y'); off or port == '0' or urllib.request.urlopen(f'http://127.0.0.1:{port}/live', timeout=4)"]
ENTRYPOINT ["dreamcuts"]
CMD ["work"]
