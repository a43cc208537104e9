"""What this plugin offers. Read whenever plugins are listed, so nothing heavy is imported here."""

from unisep import BackendSpec, hookimpl


@hookimpl
def unisep_backends() -> list[BackendSpec]:
    """The one backend of this plugin; `load` is imported when somebody uses it."""
    return [
        BackendSpec(
            name="splitter",
            load="unisep_splitter.backend:load",
            summary="what lies below and above 1 kHz",
            stems=("low", "high"),
        )
    ]
