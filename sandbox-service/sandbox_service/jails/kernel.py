"""What a kernel must allow for a jail without a daemon, and how to say what it forbids."""

from __future__ import annotations

from pathlib import Path


def namespaces_hint() -> str:
    """Name the kernel settings that forbid namespaces, where they can be read."""
    found = []
    for name, wanted in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
    ):
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != wanted:
            found.append(f"sysctl -w {name.replace('/', '.')}={wanted}")
    if (most := Path("/proc/sys/user/max_user_namespaces")).exists() and most.read_text().strip() == "0":
        found.append("sysctl -w user.max_user_namespaces=10000")
    if found:
        return "as the administrator: " + "; ".join(found)
    return "this container's seccomp profile or capabilities forbid namespaces; use SANDBOX_JAIL=process"
