"""The same settings, said to those who can set them: Docker, compose, Kubernetes, and a host's administrator.

Enters: the rows that are wanted and not in place. Leaves: text to copy, what a container can have of its own
apart from what only the host can set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastkv.kernel.plan import Plan, Row, Verdict
from fastkv.kernel.profile import Scope


@dataclass(frozen=True, slots=True)
class Equivalents:
    """Where else settings can be made.

    Attributes:
        docker: arguments of ``docker run``.
        compose: lines of a service in a compose file.
        pod: lines of a pod's specification.
        pod_safe: the settings among them that a pod may always set, with the first version of Kubernetes.
        pod_unsafe: those that the kubelet has to allow (``--allowed-unsafe-sysctls``).
        host: commands for the host: what no container has of its own.
    """

    docker: str
    compose: str
    pod: str
    pod_safe: dict[str, str]
    pod_unsafe: list[str]
    host: list[str]

    @classmethod
    def of(cls, plan: Plan) -> "Equivalents":
        """Collect what a plan wants and cannot have from here, or would write.

        Args:
            plan: the plan.

        Returns:
            The equivalents; empty where everything is in place.
        """
        missing = [row for row in plan.rows if _is_missing(row)]
        own = [row for row in missing if row.scope is Scope.NETWORK]
        files = next((row.wanted for row in plan.limits if row.verdict is Verdict.NOT_PERMITTED), None)
        return cls(
            docker=_docker(own, files),
            compose=_compose(own, files),
            pod=_pod(own),
            pod_safe={row.name: row.setting.pod for row in own if row.setting and row.setting.pod},
            pod_unsafe=[row.name for row in own if row.setting and not row.setting.pod],
            host=[_host_command(row, plan.profile.exact) for row in missing if row.scope is Scope.GLOBAL],
        )


def _is_missing(row: Row) -> bool:
    """Whether somebody has to set it; what is absent here the host may have."""
    if row.setting is None or row.wanted is None or row.setting.advice:
        return False
    absent = row.verdict is Verdict.ABSENT and row.scope is Scope.GLOBAL
    return absent or row.verdict in (Verdict.APPLY, Verdict.RISKY, Verdict.NOT_PERMITTED)


def _docker(rows: Sequence[Row], files: str | None) -> str:
    parts = [f"--sysctl {row.name}={_quoted(row.wanted)}" for row in rows]
    if files:
        parts.append(f"--ulimit nofile={files}:{files}")
    return " ".join(["docker run", *parts]) if parts else ""


def _compose(rows: Sequence[Row], files: str | None) -> str:
    lines = ["sysctls:", *(f'  {row.name}: "{row.wanted}"' for row in rows)] if rows else []
    if files:
        lines += ["ulimits:", f"  nofile: {{soft: {files}, hard: {files}}}"]
    return "\n".join(lines)


def _pod(rows: Sequence[Row]) -> str:
    lines = ["securityContext:", "  sysctls:"] if rows else []
    for row in rows:
        lines += [f"    - name: {row.name}", f'      value: "{row.wanted}"']
    return "\n".join(lines)


def _host_command(row: Row, exact: bool) -> str:
    # What the host has cannot be seen from here, and may be more.
    unseen = "" if row.current is not None or exact else "  # unless it is as good already"
    return f"sysctl -w {row.name}={_quoted(row.wanted)}{unseen}"


def _quoted(value: str | None) -> str:
    """Several numbers in quotes, for a shell."""
    return f'"{value}"' if value and " " in value else str(value)
