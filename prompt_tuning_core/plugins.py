"""The installed plugins as attributes, for gin files.

    from __gin__ import dynamic_registration
    from prompt_tuning_core import plugins

    PROMPT_INIT = @plugins.init_mine()

Using an attribute imports that plugin (PEP 562), and no other. `dir(plugins)` lists only this
module's own names: tools that read every attribute of a module (`inspect.getmembers`, reference
generators) would import every plugin. `repr(plugins)` and `prompt-tuning list-plugins` list the
installed ones.
"""

# Every name here is private: a public name would hide a plugin of the same name.

# gin's reader of files in packages uses this submodule without importing it.
import importlib.util as _importlib_util  # noqa: F401
import sys as _sys
import types as _types


class _Plugins(_types.ModuleType):
    """A module whose missing attributes are plugins."""

    def __getattr__(self, name: str) -> object:
        from prompt_tuning_core import errors, registry

        if not name.startswith("_"):
            try:
                return registry.process_registry().load_in_gin(name)
            except errors.UnknownPluginError as error:
                raise AttributeError(f"{self!r}: {error}", name=name, obj=self) from error
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    # If gin does not find a name, its message shows only the `repr` of the module.
    def __repr__(self) -> str:
        from prompt_tuning_core import registry

        names = ", ".join(registry.process_registry().names_in_gin()) or "none"
        return f"<module {self.__name__!r}; installed plugins: {names}>"


_sys.modules[__name__].__class__ = _Plugins
