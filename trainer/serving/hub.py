"""Uploads an export to a model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from trainer.errors import UserError


def refuse_missing() -> None:
    """Check that the hub's client is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("--push-to-hub needs huggingface_hub: pip install 'mealrec[export]'")


def push(folder: Path, name: str) -> str:
    """Upload all files of an export to the model repository `name`, made private where there is none.

    The client reads address and token from its own environment (`HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`).
    Returns the address of the repository.

    Raises:
        UserError: the hub cannot be reached, or refuses; the export stays.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of a MealRec model")
    except Exception as error:  # the client's, and those of whichever HTTP library it uses
        raise UserError(f"{folder} is written, but not uploaded to {hub.endpoint}: {error}") from None
    return str(address)
