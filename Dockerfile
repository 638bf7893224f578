FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY api api
COPY tasks tasks
COPY pruning pruning
COPY secateur secateur
RUN pip install --no-cache-dir -c requirements.lock ".[server]" && useradd --create-home secateur
USER secateur
ENTRYPOINT ["secateur"]
