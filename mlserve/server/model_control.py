"""Who may load and unload models while a server runs, over whatever protocol."""

from __future__ import annotations

from mlserve.errors import NotAllowed
from mlserve.settings import ServerSettings, flag_of


def require_control(settings: ServerSettings, host: str, *, is_from_browser: bool = False) -> None:
    """Raises NotAllowed unless a caller of a server at that address may change its models.

    A page in a browser can send a POST to any server of the user's own machine: without a token
    to prove that it may, it is not heard.
    """
    flag = flag_of("model_control")
    if not settings.lets_models_be_controlled(host):
        raise NotAllowed(
            f"this server lets nobody load or unload its models ({flag} "
            f"{settings.model_control.value})",
            hint=f"start it with {flag_of('token_file')}, or with {flag} on",
        )
    if is_from_browser and settings.token_file is None:
        raise NotAllowed(
            "a page in a browser may not load or unload models of a server without a token",
            hint=f"start the server with {flag_of('token_file')}",
        )
