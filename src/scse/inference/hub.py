"""Segmenters on the Hugging Face Hub, or on a server of one's own that speaks its protocol (HF_ENDPOINT)."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from scse.inference.saved import DESCRIPTION, WEIGHTS, read_saved
from scse.support.errors import DataError, UserError
from scse.support.extras import needing

PREFIX = "hf:"
"""What a segmenter on the Hub is named by, where a folder could stand: hf:OWNER/NAME or hf:OWNER/NAME@REVISION."""

CARD = "README.md"
"""File of the model card in a repository."""


def local_folder(model: Path | str) -> Path:
    """The folder of a segmenter: itself, or where the files of hf:OWNER/NAME[@REVISION] were downloaded to.

    Raises:
        DataError, UserError: As for `download`.
    """
    text = str(model)
    if not text.startswith(PREFIX) or Path(model).exists():
        return Path(model)
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    return download(repository, revision=revision or None)


def download(repository: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Download a segmenter, or find it in the cache of the Hub. Only its weights and its description are fetched.

    Args:
        repository: OWNER/NAME.
        revision: Branch, tag or commit; by default the main branch. Only a commit is always the same.
        token: Token for private repositories; by default that of `hf auth login`.

    Raises:
        DataError: The repository contains no segmenter.
        UserError: There is no such repository or revision, it is private, or the Hub cannot be reached.
    """
    with needing(f"{PREFIX}{repository}", "hub"):
        from huggingface_hub import snapshot_download  # noqa: PLC0415 (an optional package)
    with _reported(repository):
        found = snapshot_download(
            repository,
            revision=revision,
            token=token,
            allow_patterns=[DESCRIPTION, WEIGHTS],
            library_name="scse",
            library_version=version("scse"),
        )
    folder = Path(found)
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            remedy = "give a repository that scse publish wrote"
            raise DataError(f"{PREFIX}{repository}: contains no segmenter, {name} is missing; {remedy}")
    return folder


def upload(
    folder: Path | str,
    repository: str,
    *,
    card: str,
    private: bool = True,
    token: str | None = None,
    overwrite: bool = False,
) -> str:
    """Upload a segmenter and its model card in one commit.

    Args:
        folder: Folder of a segmenter, or of a run that contains one.
        repository: OWNER/NAME, which is made if it does not exist.
        card: Text of the model card.
        private: Whether a repository that is made is visible to its owner only.
        token: Token with the right to write; by default that of `hf auth login`.
        overwrite: Replace a model card that the repository has. By default it is kept, because it may have been edited.

    Returns:
        Address of the repository.

    Raises:
        DataError: The folder contains no segmenter.
        UserError: The token has no right to write, the name is not allowed, or the Hub cannot be reached.
    """
    saved = read_saved(folder)
    with needing("publishing", "hub"):
        from huggingface_hub import CommitOperationAdd, HfApi  # noqa: PLC0415 (an optional package)
    with _reported(repository):
        api = HfApi(token=token, library_name="scse", library_version=version("scse"))
        address = api.create_repo(repository, private=private, exist_ok=True)
        files: dict[str, Path | bytes] = {DESCRIPTION: saved.description, WEIGHTS: saved.weights}
        if overwrite or not api.file_exists(repository, CARD):
            files[CARD] = card.encode()
        operations = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        api.create_commit(repository, operations, commit_message=f"Segmenter of scse {version('scse')}")
    return str(address)


@contextmanager
def _reported(repository: str) -> Generator[None]:
    """Raise what the Hub refuses, and a connection that fails, as one line."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined] # noqa: PLC0415 (HTTPError is httpx's)
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{PREFIX}{repository}"
    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except HFValidationError as error:
        raise UserError(
            f"{name}: is no name of a repository; give {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: has no such revision; give a branch, tag or commit of the repository") from error
    except (GatedRepoError, LocalTokenNotFoundError) as error:
        raise UserError(f"{name}: needs an account with access; {login}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name}: there is no such repository, or it is private; check the name, or {login}") from error
    except (EntryNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
        # where the Hub does not answer, and the cache does not have the files either, the first of these carries why
        refused = error.__cause__ if isinstance(error, EntryNotFoundError) else error
        if isinstance(refused, HfHubHTTPError):
            status = refused.response.status_code
            remedy = login if status in {401, 403} else "try again later"
            raise UserError(f"{name}: the Hub refused it (HTTP {status}); {remedy}") from error
        raise UserError(f"{name}: the Hub cannot be reached ({refused}); check the connection") from error
