"""What schemathesis asks of every answer beside its own checks."""

import schemathesis


@schemathesis.check
def only_meant_server_errors(ctx, response, case):
    """503 and 504 are answers with a reason; any other 5xx is a mistake of ours."""
    if response.status_code >= 500 and response.status_code not in (503, 504):
        raise AssertionError(f"{response.status_code}: {response.text[:500]}")
    if response.status_code in (503, 504) and case.path.startswith("/api/"):
        assert response.json()["error"], "no reason is given"
