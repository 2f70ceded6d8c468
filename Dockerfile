# Not the slim one: here a C compiler builds the core.
FROM python:3.11.14-bookworm AS build
WORKDIR /build
# The constraint holds for the build back end too.
ENV PIP_CONSTRAINT=/build/requirements-dev.lock \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
COPY LICENSE README.md pyproject.toml requirements-dev.lock setup.py ./
COPY conf conf
COPY fastkv fastkv
RUN pip wheel --wheel-dir wheels . \
    && python -m venv --without-pip /opt/fastkv \
    && pip --python /opt/fastkv/bin/python install --no-compile --no-index wheels/*.whl

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="ultrafastkv" \
      org.opencontainers.image.description="An in-memory key-value cache over HTTP" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/fastkv /opt/fastkv
ENV PATH=/opt/fastkv/bin:$PATH
# Neither the base image nor the stage above has byte code: here is that of what is imported, made once instead
# of at every start and every check of health.
# A core that could not be built is no reason for pip to fail; here it is one.
RUN python -c "import fastkv.cli, fastkv.health, fastkv.kernel.applying, fastkv.launch, tomllib" \
    && python -c "from fastkv import core; assert core.COMPILED, core.REASON"
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FASTKV_HOST=::
# A number is known not to be root's without a look into the image. It owns no file.
USER 7171:7171
WORKDIR /
EXPOSE 7171
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["fastkv", "health"]
ENTRYPOINT ["fastkv"]
CMD ["serve"]
