"""Pushing files to the Hub, after a check that it can work before any work is done."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from text2lora.arguments import checked
from text2lora.cards import card_metadata
from text2lora.errors import CheckpointError, HubError
from text2lora.hub import CARD_NAME, MARKERS, Source, hub_errors, patiently

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


@dataclass(frozen=True)
class PushTarget:
    """A repository that may be pushed to.

    Attributes:
        repo_id: the repository's id, with its namespace.
        head: the commit that the push builds on; None if the repository does not exist yet.
    """

    repo_id: str
    head: str | None


@checked(HubError)
def push_target(
    repo_id: str,
    kind: Literal["adapter", "checkpoint"],
    *,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    force: bool = False,
) -> PushTarget:
    """Find out whether a `push` can work, before anything is made or sent.

    Raises:
        HubError: there is no valid token, you may not write there, the repository contains something else, or the Hub
            cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with hub_errors(" ".join(repo_id.split()), revision, HubError):
        validate_repo_id(repo_id)
        user = patiently(lambda: huggingface_hub.whoami(token, cache=True))
        repo_id = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        owner, owners = repo_id.partition("/")[0], [user["name"], *(org["name"] for org in user.get("orgs", []))]
        if role == "read":
            raise HubError("your token has no write access: create one that has, and use `hf auth login` with it")
        if owner not in owners and not create_pr and role != "fineGrained":  # whose organizations may not be listed
            raise HubError(
                f"you are logged in to the Hub as {owners[0]!r} and may not write to {repo_id}: use --create-pr"
            )
        api = huggingface_hub.HfApi(token=token)
        try:
            info = patiently(lambda: api.model_info(repo_id, revision=revision))
        except RevisionNotFoundError:  # the branch will be made from the default one
            if create_pr:  # who may not write may not make a branch either
                raise
            info = patiently(lambda: api.model_info(repo_id))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return PushTarget(repo_id, None)
    files = {file.rfilename for file in info.siblings or []} - {".gitattributes"}
    ours = "text2lora" in (info.tags or []) and MARKERS[kind] in files
    if files and not ours and not force:
        raise HubError(
            f"{repo_id} contains {min(files)} and is not a text2lora {kind}: choose another name, or write into it "
            "with --force (force=True)"
        )
    return PushTarget(repo_id, info.sha)


def check_description_of(target: PushTarget, description: str, token: bool | str | None = None) -> None:
    """Refuse a repository that is named after a description but contains the adapter of another one.

    Raises:
        HubError: the repository contains the adapter of another description.
    """
    if target.head is None:
        return
    card = Source.of(target.repo_id, revision=target.head, token=token).find(CARD_NAME)
    theirs = None
    with contextlib.suppress(CheckpointError):  # of a card that is not as we wrote it
        theirs = card_metadata(card.read_text(encoding="utf-8", errors="replace")).get("description") if card else None
    if card and theirs != description:
        raise HubError(
            f"{target.repo_id} contains the adapter for {theirs or 'another description'!r}: choose another name with "
            "--repo-id, or replace it with --force"
        )


@checked(HubError)
def push(
    write: Callable[[Path, PushTarget], object],
    repo_id: str,
    kind: Literal["adapter", "checkpoint"],
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    force: bool = False,
) -> CommitInfo:
    """Write files and put them into a repository, in one commit: all of them or none.

    Args:
        write: writes the files into a folder, which does not exist yet, for a repository.
        repo_id: the repository: `USER/NAME`, `ORGANIZATION/NAME`, or `NAME` for one of your own.
        kind: what is pushed.
        private: whether a new repository is private; None is the owner's default.
        token: a Hub token; None uses HF_TOKEN or the token from `hf auth login`.
        revision: the branch to push to, which is created if it does not exist; None is the default branch.
        create_pr: whether to open a pull request, which needs no write access.
        commit_message: the commit's summary.
        force: whether to accept a repository that contains something else; its other files stay.

    Raises:
        HubError: see `push_target`, or the push failed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    target = push_target(repo_id, kind, token=token, revision=revision, create_pr=create_pr, force=force)
    api, repo_id = HfApi(token=token), target.repo_id
    with tempfile.TemporaryDirectory() as parent:
        write(folder := Path(parent, kind), target)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with hub_errors(repo_id, revision, HubError):
            if target.head is None:
                patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
            if revision and not create_pr and not revision.startswith("refs/"):
                patiently(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
            # not upload_folder, which makes several commits of many files
            return patiently(
                lambda: api.create_commit(
                    repo_id,
                    [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
                    commit_message=commit_message or "Upload with text2lora",
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=target.head,
                )
            )
