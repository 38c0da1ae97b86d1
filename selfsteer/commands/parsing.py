"""How a command line is read: settings of a recipe that are given as options, and names that nothing has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECIPE_OPTIONS = ("--config", "--recipe")


class CommandGroup(TyperGroup):
    """A group that lists its commands where a name is none of them, nor close to one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            message = getattr(error, "message", "")
            if message.startswith("No such command") and "Did you mean" not in message:
                error.message = f"{message} Commands: {', '.join(self.list_commands(ctx))}."  # type: ignore[attr-defined]
            raise


class RecipeCommand(TyperCommand):
    """A command of a recipe and settings: takes ``--learning_rate 1e-5`` for ``train.learning_rate=1e-5``, and
    ``--config FILE`` for the recipe, as TRL and LLaMA-Factory do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with every such option written as a setting."""
        return super().parse_args(ctx, list(self._as_settings(ctx, args)))

    def _as_settings(self, ctx: Any, args: list[str]) -> Iterator[str]:
        own = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        takes_value = {name for param in self.params if not getattr(param, "is_flag", True) for name in param.opts}
        # The recipe is the first argument, wherever --config is.
        recipes: list[str] = []
        others: list[str] = []
        left = list(args)
        while left:
            one = left.pop(0)
            name, separator, value = one.partition("=")
            if one == "--":
                others += [one, *left]
                break
            if not name.startswith("--") or name in own:
                others.append(one)
                if name in takes_value and not separator and left:
                    others.append(left.pop(0))
                continue
            known = name in _RECIPE_OPTIONS or _setting(ctx, name)
            if not separator:
                if not left or left[0].startswith("--"):
                    ctx.fail(f"{name} needs a value{f': write {known}=VALUE' if isinstance(known, str) else ''}.")
                value = left.pop(0)
            if isinstance(known, str):
                others.append(f"{known}={value}")
            else:
                recipes.append(value)
        yield from recipes
        yield from others


def _setting(ctx: Any, option: str) -> str:
    """Return the key of a recipe that an option stands for; ends the command if there is none."""
    from selfsteer.config import Recipe
    from selfsteer.config.keys import OTHERWISE, meant
    from selfsteer.errors import did_you_mean

    name = option.removeprefix("--").replace("-", "_")
    if key := meant(name, Recipe):
        return key
    if name in OTHERWISE:
        ctx.fail(f"No such option: {option}. Instead {OTHERWISE[name]}.")
    own = [one for param in ctx.command.get_params(ctx) for one in param.opts if one.startswith("--")]
    ctx.fail(f"No such option: {option}. {did_you_mean(option, own)}; or settings, e.g. train.learning_rate=1e-5.")
    raise AssertionError
