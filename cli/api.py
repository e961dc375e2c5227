"""`paymaster api` and `api-token`."""

import json

from cli.inputs import InputError
from cli.output import console, print_json


def run_api(host: str, port: int, *, as_json: bool) -> None:
    """Serve, and say where."""
    from api.serve import run

    def ready(url: str) -> None:
        if as_json:
            print(json.dumps({"url": url}), flush=True)
        else:
            console.print(f"The API listens at {url}/api/v1/; what it takes is at {url}/api/v1/openapi.json")

    try:
        run(host, port, ready)
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def make_api_token(name: str, roles: list[str], user: str | None, *, as_json: bool) -> None:
    """Print a new token and its line for the environment."""
    from pydantic import ValidationError

    from api.access import make_token
    from api.settings import Role

    try:
        token, entry = make_token(name, [Role(role) for role in roles], user)
    except ValidationError:
        raise InputError("name: give letters, digits, dots, dashes or underscores; user: no spaces or commas") from None
    except ValueError:
        raise InputError(f"role: is unknown; known: {', '.join(Role)}") from None
    if as_json:
        print_json({"token": token, "entry": entry})
        return
    console.print("The token, which is kept nowhere:\n", highlight=False)
    console.print(f"  {token}\n", soft_wrap=True, highlight=False)
    console.print("For the environment of the API (several are separated by commas):\n", highlight=False)
    console.print(f"  export API_TOKENS={entry}", soft_wrap=True, highlight=False)
