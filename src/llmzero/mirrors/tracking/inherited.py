"""Which of W&B's environment variables reach the mirror: those that say how to reach the server, and as whom.

Any other may be of the run that the driver itself is part of, as in a sweep. W&B prefers `WANDB_RUN_ID`,
`WANDB_RESUME` and the like to what a program asks for, and all runs of a search would become that one.
"""

from __future__ import annotations

NEEDED = (
    *("API_KEY", "IDENTITY_TOKEN_FILE", "CREDENTIALS_FILE", "ENTITY", "ORGANIZATION", "CONFIG_DIR"),
    *("BASE_URL", "APP_URL", "HTTP_PROXY", "HTTPS_PROXY", "INSECURE_DISABLE_SSL", "X_PROXIES"),
    *("X_EXTRA_HTTP_HEADERS", "AZURE_ACCOUNT_URL_TO_ACCESS_KEY", "ARTIFACT_DIR"),
    *("HTTP_TIMEOUT", "FILE_PUSHER_TIMEOUT", "LOGIN_TIMEOUT", "ARTIFACT_FETCH_FILE_URL_BATCH_SIZE"),
    *("CORE_DEBUG", "DEBUG", "ERROR_REPORTING"),
)
NEEDED_KINDS = ("X_FILE_STREAM_", "X_FILE_TRANSFER_", "X_GRAPHQL_", "X_SERVICE_WAIT", "_")  # times, retries


def is_of_a_run(variable: str) -> bool:
    """Return whether a variable is W&B's and may be about a run of somebody else."""
    name = variable.removeprefix("WANDB_")
    return name != variable and name not in NEEDED and not name.startswith(NEEDED_KINDS)
