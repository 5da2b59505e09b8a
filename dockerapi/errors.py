"""The one error tree; each kind knows its HTTP status, each leaf the words that clients match on.

    APIError                     500
    |- InvalidParameter          400
    |  `- StartFailure           400   (a process could not be started)
    |- Unauthorized              401
    |  `- PullAccessDenied       404   (dockerd answers 404 here; the CLI greps the text)
    |- Forbidden                 403
    |- NotFound                  404
    |  |- NoSuchContainer, NoSuchImage, NoSuchExec, PageNotFound
    |- Conflict                  409
    |  |- NameInUse, NotRunning
    |- NotModified               304   (no body)
    |- TooManyRequests           429
    |- NotSupported              501
    |- Unavailable               503
    |- DataLoss                  500
    |  `- DigestMismatch
    `- CommandFailed             500

`message` goes to the client.  `detail` and `__cause__` go to the log only.  Raise the kind where it is
known; the status is chosen here and nowhere else.
"""

from __future__ import annotations


class APIError(Exception):
    """An answer other than success.  Subclasses set `status`."""

    status = 500

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class InvalidParameter(APIError):
    """The request cannot be meant as it was sent."""

    status = 400


class StartFailure(InvalidParameter):
    """The runtime could not start a process.

    `exit_code` as the shell has it: 127 not found, 126 not executable, 128 anything else.  The CLI
    makes its own exit code of the text ("executable file not found", "permission denied").
    """

    def __init__(self, message: str, exit_code: int, *, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.exit_code = exit_code


class Unauthorized(APIError):
    """Credentials are missing or were refused."""

    status = 401


class Forbidden(APIError):
    """Understood, and not allowed."""

    status = 403


class NotFound(APIError):
    """The named object does not exist."""

    status = 404


class Conflict(APIError):
    """The object's state does not allow it."""

    status = 409


class NotModified(APIError):
    """Already so; answered with an empty body."""

    status = 304


class TooManyRequests(APIError):
    """A registry has had enough of us; its text is passed on."""

    status = 429


class NotSupported(APIError):
    """Not built, or this host cannot do it.  The message says which."""

    status = 501


class Unavailable(APIError):
    """Not now: the daemon is shutting down, or is no swarm manager."""

    status = 503


class DataLoss(APIError):
    """Bytes are not what they claim to be."""

    status = 500


class PageNotFound(NotFound):
    """No such route, or the route exists with another method: dockerd tells neither apart."""

    def __init__(self) -> None:
        super().__init__("page not found")


class NoSuchContainer(NotFound):
    """No container has this name, id or unique id prefix."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"No such container: {ref}")


class NoSuchExec(NotFound):
    """No exec instance has this id."""

    def __init__(self, exec_id: str) -> None:
        super().__init__(f"No such exec instance: {exec_id}")


class NoSuchImage(NotFound):
    """No image answers to this reference.  docker-py and the CLI match on the text."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"No such image: {ref}")


class PullAccessDenied(Unauthorized):
    """The registry refused us, or hides that the repository does not exist."""

    status = 404

    def __init__(
        self,
        repository: str,
        *,
        words: str = "denied: requested access to the resource is denied",
        detail: str = "",
    ) -> None:
        super().__init__(
            f"pull access denied for {repository}, repository does not exist or may require "
            f"'docker login': {words}",
            detail=detail,
        )


class NameInUse(Conflict):
    """Another container holds the name; the CLI and compose show its full id."""

    def __init__(self, name: str, holder_id: str) -> None:
        super().__init__(
            f'Conflict. The container name "/{name}" is already in use by container '
            f'"{holder_id}". You have to remove (or rename) that container to be able to reuse that name.'
        )


class NotRunning(Conflict):
    """The operation needs a running container."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id} is not running")


class DigestMismatch(DataLoss):
    """Content does not hash to what its descriptor says."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"filesystem layer verification failed for digest {expected}", detail=f"got {actual}"
        )


class CommandFailed(APIError):
    """A program that we started ended badly.

    `message` is its last line on stderr; `detail` the whole of it with the command line.
    """

    def __init__(self, program: str, exit_status: int, stderr: str) -> None:
        lines = [line for line in stderr.splitlines() if line.strip()]
        last = lines[-1].strip() if lines else f"exit status {exit_status}"
        super().__init__(f"{program}: {last}", detail=stderr)
        self.program = program
        self.exit_status = exit_status
        self.stderr = stderr
