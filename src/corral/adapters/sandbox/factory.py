"""Makes the sandbox that the settings ask for."""

from __future__ import annotations

from datetime import timedelta

from corral.adapters.sandbox.port import MIB, Sandbox, SandboxLimits
from corral.adapters.sandbox.proxy import AllowList
from corral.settings import Settings


def make_sandbox(settings: Settings) -> Sandbox:
    """Make the chosen sandbox; nothing is started, and whether it works here is for ``check`` to say.

    Raises:
        ConfigurationError: A setting of it is wrong.
    """
    home = settings.data_dir.absolute() / "sandbox" / "runs"
    hosts = AllowList(settings.sandbox_setup_hosts, networks=settings.sandbox_setup_networks)
    if settings.sandbox == "none":
        from corral.adapters.sandbox.unconfined import UnconfinedSandbox  # noqa: PLC0415 - only the chosen one

        return UnconfinedSandbox(home=home)
    if settings.sandbox == "bubblewrap":
        from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox  # noqa: PLC0415

        return BubblewrapSandbox(home=home, read_only_paths=settings.sandbox_read_only_paths, setup_hosts=hosts)
    from corral.adapters.sandbox.container import ContainerSandbox  # noqa: PLC0415

    return ContainerSandbox(settings.sandbox, home=home, image=settings.sandbox_image, setup_hosts=hosts)


def default_limits(settings: Settings) -> SandboxLimits:
    """Return the bounds of runs that ask for none of their own."""
    return SandboxLimits(
        memory_bytes=settings.sandbox_memory_mb * MIB,
        processes=settings.sandbox_processes,
        cpu=timedelta(seconds=settings.sandbox_cpu_seconds),
        file_size_bytes=settings.sandbox_file_size_mb * MIB,
        disk_bytes=settings.sandbox_disk_mb * MIB,
        tmp_bytes=settings.sandbox_tmp_mb * MIB,
        output_bytes=settings.sandbox_output_kb * 1024,
        open_files=settings.sandbox_open_files,
    )
